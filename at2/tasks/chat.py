"""Tasks whose prompt is the last message of a chat, with sources in documents inside it."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from at2.alignment import CharRange, TokenRange, assign_tokens
from at2.errors import InputError, PromptError
from at2.prompts import Message, Placement, Prompt, build_prompt
from at2.tasks.base import (
    DEFAULT_GENERATE_KWARGS,
    AttributionTask,
    SourceSpan,
    split_ranges,
)

SOURCE_TYPES = ("document", "paragraph", "sentence", "word", "token")


class AttributionTaskWithChatPrompt(AttributionTask):
    """A subclass gives `prompt`, the text of the user's message, and the documents in it.

    Args:
        previous_messages: earlier turns, dictionaries with `role` and `content`.
        source_type: `document`, `paragraph`, `sentence`, `word` or `token`.
        source_ranges: per document the character ranges of its sources, instead of `source_type`.
        chat_template: used instead of the tokenizer's own.
        template_kwargs: further variables of the chat template, such as `enable_thinking`.

    Raises:
        InputError: the source type is unknown.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
        previous_messages: Sequence[Message] | None = None,
        source_type: str = "document",
        source_ranges: Sequence[Sequence[CharRange]] | None = None,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(model, tokenizer, generate_kwargs)
        if source_type not in SOURCE_TYPES:
            allowed = ", ".join(SOURCE_TYPES)
            raise InputError(
                f"unknown source_type {source_type!r}: not one of {allowed}", param="source_type"
            )
        self.previous_messages = list(previous_messages or ())
        self.source_type = source_type
        self.source_ranges = source_ranges
        self.chat_template = chat_template
        self.template_kwargs = template_kwargs

    @property
    @abstractmethod
    def prompt(self) -> str:
        """The text of the user's message."""

    @cached_property
    def document_ranges(self) -> list[CharRange]:
        """Characters of `prompt` per document."""
        return list(self._get_document_ranges())

    @abstractmethod
    def _get_document_ranges(self) -> list[CharRange]:
        """Find the characters of `prompt` that each document takes; they must not overlap."""

    @cached_property
    def encoded_prompt(self) -> Prompt:
        """The encoded prompt; what users wrote holds no control tokens."""
        messages = [*self.previous_messages, {"role": "user", "content": self.prompt}]
        return build_prompt(
            self.tokenizer,
            messages,
            chat_template=self.chat_template,
            template_kwargs=self.template_kwargs,
        )

    @property
    def input_text(self) -> str:
        """The prompt in its chat template."""
        return self.encoded_prompt.encoded.text

    @property
    def _placement(self) -> Placement:
        """Where `prompt` is in `input_text`."""
        place = self.encoded_prompt.contents[-1]
        if place is None and self.prompt:
            raise PromptError("the chat template does not show the user's message")
        return place or Placement(0, 0, 0)

    def _in_input(self, start: int, end: int) -> CharRange:
        """Characters of `prompt` as characters of `input_text`; what is trimmed off is left out."""
        place = self._placement
        shift = place.start - place.offset
        first, last = (_within(c + shift, place.start, place.end) for c in (start, end))
        return first, last

    def prompt_range_to_token_range(self, start_index: int, end_index: int) -> TokenRange:
        """The tokens that touch characters `[start_index, end_index)` of `prompt`."""
        return self.encoded_prompt.encoded.tokens_overlapping(
            *self._in_input(start_index, end_index)
        )

    def _get_source_token_ranges(self) -> list[TokenRange]:
        return [tokens for _, tokens in self._located_sources]

    def _get_source_spans(self) -> list[SourceSpan]:
        return [span for span, _ in self._located_sources]

    @cached_property
    def _located_sources(self) -> list[tuple[SourceSpan, TokenRange]]:
        """Sources of the prompt's documents with their tokens."""
        documents = self.document_ranges
        if self.source_ranges is None and self.source_type == "token":
            pieces = self._token_pieces()
        else:
            pieces = self._char_pieces()
        located = []
        for index, (document, start, end, tokens) in enumerate(pieces):
            offset = documents[document][0]
            text = self.prompt[offset + start : offset + end]
            located.append((SourceSpan(index, document, start, end, text), tokens))
        return located

    def _char_pieces(self) -> list[tuple[int, int, int, TokenRange]]:
        """(document, start, end, tokens) of sources that are given by characters."""
        prompt, documents = self.prompt, self.document_ranges
        if self.source_ranges is not None and len(self.source_ranges) != len(documents):
            raise InputError(
                f"source_ranges for {len(self.source_ranges)} documents, "
                f"but there are {len(documents)}",
                param="source_ranges",
            )
        found: list[tuple[int, int, int]] = []
        for document, (first, last) in enumerate(documents):
            if self.source_ranges is None:
                ranges = split_ranges(prompt[first:last], self.source_type)
            else:
                ranges = list(self.source_ranges[document])
                _check_given(ranges, last - first, document)
            found += [(document, start, end) for start, end in ranges]
        in_input = [self._in_input(documents[d][0] + s, documents[d][0] + e) for d, s, e in found]
        encoded = self.encoded_prompt.encoded
        assigned = assign_tokens(encoded.text, encoded.ranges, in_input)
        return [(*piece, tokens) for piece, tokens in zip(found, assigned, strict=True)]

    def _token_pieces(self) -> list[tuple[int, int, int, TokenRange]]:
        """(document, start, end, tokens) of every token of the documents."""
        encoded, place = self.encoded_prompt.encoded, self._placement
        in_input = [self._in_input(*document) for document in self.document_ranges]
        assigned = assign_tokens(encoded.text, encoded.ranges, in_input)
        pieces = []
        for document, (first, last) in enumerate(assigned):
            start, end = in_input[document]
            offset = self.document_ranges[document][0] + place.start - place.offset
            for token in range(first, last):
                begin, stop = (_within(c, start, end) - offset for c in encoded.ranges[token])
                pieces.append((document, begin, stop, (token, token + 1)))
        return pieces


def _within(position: int, start: int, end: int) -> int:
    return min(max(position, start), end)


def _check_given(ranges: Sequence[CharRange], length: int, document: int) -> None:
    """Caller-given sources must not be empty and lie within their document."""
    for start, end in ranges:
        if not 0 <= start < end <= length:
            raise InputError(
                f"source range ({start}, {end}) is empty or outside document {document}, "
                f"which has {length} characters",
                param="source_ranges",
            )
