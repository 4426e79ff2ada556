"""What tasks hand out: documents, sources in them, and spans of the target.

Plain values. All ranges are half-open, `(start, end)`, in Unicode code points or tokens.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """A text to attribute to. Its title is shown to the model but is no source."""

    text: str
    id: str | None = None
    title: str | None = None


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
