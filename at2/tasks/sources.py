"""Sources: documents cut into pieces of one level, and the tokens of each piece.

Levels are nested. A token goes to one document first, then to a paragraph in it, then to a sentence
of that paragraph, then to a word of that sentence. So a source's tokens are never outside the
coarser source that holds it, and scores add up: a coarse source scores the sum of the finer ones in
it and of the tokens between these. What stands between sentences (bullets, rules) is in words of
its own, white space in none. At the finest level every token is a source, but for tokens that only
together make a character, as the bytes of an emoji do: these are one. Knows text and ranges only:
nothing of models, chats or scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from at2.errors import InputError
from at2.ranges import CharRange, TokenRange
from at2.text.alignment import assign_tokens
from at2.text.sentences import split_paragraphs, split_sentences, split_words

_SPLITTERS = {
    "paragraph": split_paragraphs,
    "sentence": split_sentences,
    "word": split_words,
}
_LEVELS = ("document", *_SPLITTERS)

SOURCE_TYPES = (*_LEVELS, "token")
"""What documents can be cut into, from coarse to fine."""

DEFAULT_SOURCE_TYPE = "sentence"
"""What every task cuts its documents into unless it is told otherwise."""

TARGET_PARTS = (*_SPLITTERS, "token")
"""What a target can be cut into, from coarse to fine."""


@dataclass(frozen=True)
class PlacedText:
    """A document, and where a longer text shows it.

    Attributes:
        text: the document.
        shift: what to add to a position in the document to get one in the longer text.
        start, end: the part of the longer text that shows it; what a template trims off is missing.
    """

    text: str
    shift: int
    start: int
    end: int

    def in_whole(self, start: int, end: int) -> CharRange:
        """Characters of the document as characters of the longer text."""
        return self._within(start + self.shift), self._within(end + self.shift)

    def in_document(self, start: int, end: int) -> CharRange:
        """Characters of the longer text as characters of the document."""
        return self._within(start) - self.shift, self._within(end) - self.shift

    def _within(self, position: int) -> int:
        return min(max(position, self.start), self.end)


@dataclass(frozen=True)
class Piece:
    """A piece of a document: its characters there, and its tokens in the longer text."""

    document: int
    start: int
    end: int
    tokens: TokenRange


def check_source_type(source_type: str) -> str:
    """`source_type` if there is such a level.

    Raises:
        InputError: there is not.
    """
    if source_type not in SOURCE_TYPES:
        allowed = ", ".join(SOURCE_TYPES)
        raise InputError(
            f"unknown source_type {source_type!r}: not one of {allowed}", param="source_type"
        )
    return source_type


def check_target_split(split_by: str | None, param: str = "split_by") -> None:
    """Make sure that a target can be cut by `split_by`; None is all of it in one.

    Raises:
        InputError: it cannot.
    """
    if split_by is not None and split_by not in TARGET_PARTS:
        raise InputError(
            f"cannot split by {split_by!r}: not one of {', '.join(TARGET_PARTS)}, None",
            param=param,
        )


def split_ranges(text: str, level: str) -> list[CharRange]:
    """The paragraphs, sentences or words of a text, or all of it as one `document`."""
    if level == "document":
        return [(0, len(text))] if text else []
    return list(_SPLITTERS[level](text))


def cut_documents(
    whole: str,
    token_ranges: Sequence[CharRange],
    documents: Sequence[PlacedText],
    source_type: str,
    given: Sequence[Sequence[CharRange]] | None = None,
) -> list[Piece]:
    """Cut documents into sources of one level and find the tokens of each.

    Args:
        whole: the text that shows the documents.
        token_ranges: characters of `whole` per token.
        documents: where they are; disjoint.
        source_type: one of `SOURCE_TYPES`.
        given: per document the character ranges of its sources, instead of `source_type`.

    Returns:
        Document by document, in order (given ones in the order given); no two share a token.

    Raises:
        InputError: given ranges overlap, are empty or outside their document.
    """
    characters = _whole_characters(token_ranges)
    ranges = [(token_ranges[first][0], token_ranges[last - 1][1]) for first, last in characters]
    pieces = _cut(whole, ranges, documents, source_type, given)
    starts = [*(first for first, _ in characters), len(token_ranges)]
    ends = [0, *(last for _, last in characters)]
    return [
        replace(piece, tokens=(starts[first], ends[last] if first < last else starts[first]))
        for piece in pieces
        for first, last in [piece.tokens]
    ]


def _whole_characters(token_ranges: Sequence[CharRange]) -> list[TokenRange]:
    """The tokens one by one, but together those that only together make a character."""
    parts: list[TokenRange] = []
    covered = 0
    for token, (start, end) in enumerate(token_ranges):
        if parts and start < covered:
            parts[-1] = (parts[-1][0], token + 1)
        else:
            parts.append((token, token + 1))
        covered = max(covered, end)
    return parts


def _cut(
    whole: str,
    token_ranges: Sequence[CharRange],
    documents: Sequence[PlacedText],
    source_type: str,
    given: Sequence[Sequence[CharRange]] | None,
) -> list[Piece]:
    """`cut_documents` for tokens of which none shares a character with another."""
    whole_documents = [split_ranges(document.text, "document") for document in documents]
    pieces, remaining = _assign(whole, token_ranges, documents, whole_documents)
    if given is not None:
        _check_given(given, documents)
        return _assign(whole, remaining, documents, given)[0]
    if source_type == "token":
        return [
            Piece(
                piece.document,
                *documents[piece.document].in_document(*remaining[token]),
                (token, token + 1),
            )
            for piece in pieces
            for token in range(*piece.tokens)
        ]
    coarser = whole_documents
    for level in _LEVELS[1 : _LEVELS.index(check_source_type(source_type)) + 1]:
        finer = [split_ranges(document.text, level) for document in documents]
        if finer != coarser:
            pieces, remaining = _assign(whole, remaining, documents, finer)
        coarser = finer
    return pieces


def _assign(
    whole: str,
    token_ranges: Sequence[CharRange],
    documents: Sequence[PlacedText],
    ranges: Sequence[Sequence[CharRange]],
) -> tuple[list[Piece], list[CharRange]]:
    """Tokens of the pieces `ranges` of each document, and per token what is left of it in its
    piece; all of it where it is in none."""
    found = [
        (document, start, end)
        for document, of_document in enumerate(ranges)
        for start, end in of_document
    ]
    in_whole = [documents[document].in_whole(start, end) for document, start, end in found]
    assigned = assign_tokens(whole, token_ranges, in_whole)
    remaining = list(token_ranges)
    for (start, end), (first, last) in zip(in_whole, assigned, strict=True):
        for token in range(first, last):
            s, e = token_ranges[token]
            remaining[token] = (min(max(s, start), end), max(min(e, end), start))
    pieces = [Piece(*where, tokens) for where, tokens in zip(found, assigned, strict=True)]
    return pieces, remaining


def _check_given(given: Sequence[Sequence[CharRange]], documents: Sequence[PlacedText]) -> None:
    """Caller-given sources must not be empty and lie within their document."""
    if len(given) != len(documents):
        raise InputError(
            f"source_ranges for {len(given)} documents, but there are {len(documents)}",
            param="source_ranges",
        )
    for number, (ranges, document) in enumerate(zip(given, documents, strict=True)):
        length = len(document.text)
        for start, end in ranges:
            if not 0 <= start < end <= length:
                raise InputError(
                    f"source range ({start}, {end}) is empty or outside document {number}, "
                    f"which has {length} characters",
                    param="source_ranges",
                )
