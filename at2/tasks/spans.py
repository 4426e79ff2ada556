"""What tasks hand out: documents, sources in them, and spans of the target.

Plain values. All ranges are half-open, `(start, end)`, in Unicode code points or tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from at2.errors import InputError


@dataclass(frozen=True)
class Document:
    """A text to attribute to. Its title is shown to the model but is no source."""

    text: str
    id: str | None = None
    title: str | None = None


class HasText(Protocol):
    """Any object with a text; its `title` and `id` are taken too, if it has them."""

    @property
    def text(self) -> str: ...


DocumentLike = str | Mapping[str, Any] | Document | HasText
"""What can be given as a document: its text, a mapping with `text`, or an object with one."""


def is_document(value: Any) -> bool:
    """Whether something is one document, and no sequence of them."""
    return isinstance(value, str | Mapping) or hasattr(value, "text")


def as_document(value: DocumentLike, number: int = 0) -> Document:
    """A document from what callers have: a plain text, or a mapping or object with `text` and,
    where it has them, `title` and `id`.

    Args:
        number: the document's place, for messages.

    Raises:
        InputError: it is none of these, or has a text, title or id that is no string.
    """
    if isinstance(value, Document | str):
        return value if isinstance(value, Document) else Document(value)
    fields: dict[str, Any] = {
        name: value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        for name in ("text", "id", "title")
    }
    if fields["text"] is None:
        kind = type(value).__name__
        raise InputError(f"document {number} is a {kind} without a text", param="documents")
    for name, field in fields.items():
        if not isinstance(field, str | None):
            raise InputError(
                f"the {name} of document {number} is a {type(field).__name__}, not a string",
                param="documents",
            )
    return Document(**fields)


@dataclass(frozen=True)
class SourceSpan:
    """A source as its owner knows it.

    Attributes:
        index: place among the task's sources.
        document: place of its document among the task's documents.
        start, end: characters in that document.
        text: `document[start:end]`.
    """

    index: int
    document: int
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class TargetSpan:
    """What is attributed when a span of the target is asked for: all tokens that it touches.

    Attributes:
        start, end: characters of the target that these tokens cover.
        text: the target between them.
        token_start, token_end: the tokens, as positions in prompt and response.
    """

    start: int
    end: int
    text: str
    token_start: int
    token_end: int
