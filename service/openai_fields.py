"""Fields whose values come in several shapes, or may only have values that change nothing."""

from collections.abc import Mapping
from typing import Any

from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import (
    no_info_after_validator_function,
    no_info_before_validator_function,
)

from service.failures import SHOWN


class AcceptOnly:
    """A parameter that is not supported: null is taken, and so are the values that change
    nothing."""

    def __init__(self, *harmless: Any) -> None:
        self._harmless = harmless

    def _check(self, value: Any) -> Any:
        for one in (None, *self._harmless):
            if value == one and isinstance(value, bool) == isinstance(one, bool):
                return value
        raise PydanticCustomError(
            "unsupported_parameter", "this is not supported here: leave it out"
        )

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"enum": [None, *self._harmless], "description": "Nothing else is supported."}


class OrFlag:
    """Options that may be a flag instead: false is `enabled` false; true and null are the
    default."""

    @staticmethod
    def _options(value: Any) -> Any:
        if value is None:
            return {}
        return {"enabled": value} if isinstance(value, bool) else value

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return no_info_before_validator_function(self._options, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "boolean"}, {"type": "null"}]}


DOCUMENT_SCHEMA = {
    "anyOf": [{"type": "string"}, {"type": "object"}],
    "description": "A text, or an object with `text` (or `content`, or Cohere's `data`), and `id` "
    "and `title` if it has them.",
}


def document_of(value: Any) -> Any:
    """A document in any of the shapes that clients know, as `service.request_schemas.Document` has
    it: a text; vLLM's and ours, `text` with `title` and `id`; Cohere's, `data` with a text or an
    object, and `snippet`; and `content`."""
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, Mapping):
        return value
    fields = dict(value)
    data = fields.pop("data", None)
    if isinstance(data, str):
        fields.setdefault("text", data)
    elif isinstance(data, Mapping):
        fields = {**data, **fields}
    elif data is not None:
        raise PydanticCustomError("document_type", "data is neither a text nor an object")
    for other in ("content", "snippet"):
        if other in fields and "text" not in fields:
            fields["text"] = fields.pop(other)
    return fields


CONTENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "text"],
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
            },
        },
    ]
}


def text_of(content: Any) -> Any:
    """The text of a message's content: its own, or that of its parts, a line each."""
    if not isinstance(content, list):
        return content
    texts = []
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise PydanticCustomError(
                "unsupported_content",
                "part {number} is of type {kind}: only parts of type text are supported here",
                {"number": number, "kind": str(kind)[:SHOWN]},
            )
        texts.append(part["text"])
    return "\n".join(texts)
