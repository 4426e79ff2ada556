"""The types of fields that requests and replies have, with their limits."""

from typing import Annotated, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic_core import PydanticCustomError

SourceType = Literal["document", "paragraph", "sentence", "word", "token"]

Method = Literal[
    "at2",
    "average_attention",
    "contrastive_attention",
    "fusion",
    "leave_one_out",
    "context_cite",
    "visibility_gradient",
    "gradient_norm",
    "input_x_gradient",
    "random",
    "position",
    "lexical_overlap",
]

SourceKind = Literal["document", "message", "thoughts"]
"""What a source is a piece of."""

DEFAULT_TOP_K = 8

DEFAULT_MIN_SHARE = 0.2
"""The library's, which this module does not load."""

MAX_HOPS = 16
"""The library's."""

MAX_DOCUMENT_ID = 256
"""Characters: every source of a document repeats its id."""

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
"""Each is looked for at every new token."""

MAX_ITEMS = 10_000
"""Of any list in a request; what a server's settings allow is less."""

EXAMPLE: dict[str, JsonValue] = {
    "context": "Charlotte Bennett lives in Lisbon. Omar Whitfield plays the cello.",
    "query": "Where does Charlotte Bennett live?",
}
"""What the OpenAPI document shows, and /docs offers to send."""


def encodable(value: str) -> str:
    """A text that can be sent.

    Raises:
        ValueError: a character is half of a surrogate pair.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is half of a surrogate pair, which is no text"
        ) from None
    return value


Text = Annotated[str, AfterValidator(encodable)]

NonEmptyText = Annotated[str, StringConstraints(min_length=1), AfterValidator(encodable)]

NonBlankText = Annotated[
    str, StringConstraints(min_length=1, pattern=r"\S"), AfterValidator(encodable)
]

DocumentId = Annotated[
    str, StringConstraints(max_length=MAX_DOCUMENT_ID), AfterValidator(encodable)
]

T = TypeVar("T")

BoundedList = Annotated[list[T], Field(max_length=MAX_ITEMS, fail_fast=True)]
"""One that is read no further than to the first item that is wrong."""

MinShare = Annotated[
    float,
    Field(
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="A source is `cited` if it has at least this share of all positive scores.",
    ),
]


def _listed(value: object) -> object:
    """One text as a list; an empty one, which stops nothing, as none."""
    if isinstance(value, str):
        return [value] if value else []
    return value


_StopText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_STOP_CHARACTERS),
    AfterValidator(encodable),
]

_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}

Stop = Annotated[
    list[_StopText],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": MAX_STOP_CHARACTERS},
                {"type": "array", "maxItems": MAX_STOPS, "items": _STOP_SCHEMA},
            ],
            "description": "A text or several: the response ends before the first that it comes "
            "to, which is not in it.",
        }
    ),
]
"""Texts before which a response ends."""


def fits_header(key: str) -> bool:
    """Whether a key can be sent in a header as it is: printable ASCII, no white space around it."""
    return key.isascii() and key.isprintable() and key == key.strip()


def _messages(value: object, choose: ValidatorFunctionWrapHandler) -> object:
    """One error for both forms, under the field's own name."""
    try:
        return choose(value)
    except ValidationError:
        raise PydanticCustomError(
            "source_messages",
            "neither 'all', nor 'tool', nor a list of at most {most} numbers of messages",
            {"most": MAX_ITEMS},
        ) from None


SourceMessages = Annotated[
    Literal["all", "tool"] | BoundedList[int],
    WrapValidator(_messages),
    Field(
        description="Messages that are sources: all, those of role `tool`, or their numbers, "
        "from 0. By default none beside documents; without documents, all."
    ),
]
