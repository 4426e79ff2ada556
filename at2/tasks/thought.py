"""Attribute a response to the thoughts that a reasoning model wrote before it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from at2.errors import InputError
from at2.ranges import CharRange, TokenRange
from at2.tasks.chat import AttributionTaskWithChatPrompt
from at2.tasks.generation import DEFAULT_GENERATE_KWARGS
from at2.tasks.sources import DEFAULT_SOURCE_TYPE, PlacedText, cut_documents
from at2.tasks.spans import Document, SourceSpan
from at2.text.chat_template import Message
from at2.text.encoding import check_text

# Thoughts come before the response, so there is more to write.
DEFAULT_THOUGHT_GENERATE_KWARGS: Mapping[str, Any] = {
    **DEFAULT_GENERATE_KWARGS,
    "max_new_tokens": 4096,
}
"""Arguments of `model.generate`: greedy, up to 4,096 tokens."""


class ThoughtAttributionTask(AttributionTaskWithChatPrompt):
    """Sources are the documents of the prompt, if any, and then the thoughts, split by
    `source_type`; the target is what follows them. In `source_spans` the thoughts are one more
    document, after those of the prompt.

    While the thoughts have no end, because generation stopped before, there are no sources and the
    target is empty.
    """

    thought_start_marker = "<think>"
    thought_end_marker = "</think>"

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        cache: Mapping[str, Any] | None = None,
        generate_kwargs: Mapping[str, Any] = DEFAULT_THOUGHT_GENERATE_KWARGS,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, tokenizer, generate_kwargs, cache=cache, **kwargs)

    def _split(self, text: str) -> tuple[CharRange, int] | None:
        """The characters of the thoughts and where the response starts; None without an end."""
        marker = re.escape(self.thought_end_marker)
        # A mention of the marker within the thoughts is rarely followed by a blank line.
        ending = re.search(f"{marker}\n\n", text) or re.search(f"{marker}\\s*", text)
        if ending is None:
            return None
        opening = re.match(f"\\s*{re.escape(self.thought_start_marker)}\\s*", text)
        start = opening.end() if opening is not None else 0
        return (min(start, ending.start()), ending.start()), ending.end()

    def _response_user_spans(self, text: str) -> list[CharRange]:
        """All but the two markers, which a model writes as control tokens."""
        split = self._split(text)
        opening = re.match(f"\\s*({re.escape(self.thought_start_marker)})", text)
        cuts = [opening.span(1)] if opening is not None else []
        if split is not None:
            end = split[0][1]
            cuts.append((end, end + len(self.thought_end_marker)))
        spans, position = [], 0
        for start, end in [*cuts, (len(text), len(text))]:
            spans.append((position, start))
            position = end
        return [(start, end) for start, end in spans if start < end]

    @property
    def thought_token_range(self) -> TokenRange:
        """Tokens of the thoughts, up to the first that shows part of the end marker."""
        offset, generation = self.generation_token_start, self.encoded_generation
        split = self._split(generation.text)
        if split is None:
            return offset, self.generation_token_end
        (start, end), _ = split
        first = generation.tokens_overlapping(start, end)[0] if start < end else 0
        last = generation.tokens_overlapping(end, len(generation.text))[0]
        return offset + min(first, last), offset + last

    @property
    def thoughts(self) -> str:
        """The thoughts as text; all of the generation while they have no end."""
        split = self._split(self.generation)
        return self.generation if split is None else self.generation[slice(*split[0])]

    @property
    def response_token_range(self) -> TokenRange:
        """Tokens of what follows the thoughts.

        Raises:
            InputError: the thoughts have no end.
        """
        split = self._split(self.generation)
        if split is None:
            raise InputError(f"the response has no {self.thought_end_marker!r}: thoughts never end")
        first, last = self.encoded_generation.tokens_overlapping(split[1], len(self.generation))
        end = self.generation_token_end
        return (self.generation_token_start + first, end) if first < last else (end, end)

    @property
    def response(self) -> str:
        """What follows the thoughts, as text.

        Raises:
            InputError: the thoughts have no end.
        """
        _ = self.response_token_range
        return self.target

    @property
    def target_token_range(self) -> TokenRange:
        """The response; empty while the thoughts have no end."""
        if self._split(self.generation) is None:
            return self.generation_token_end, self.generation_token_end
        return self.response_token_range

    @property
    def source_documents(self) -> list[Document]:
        """The documents of the prompt, and the thoughts once they have an end."""
        thoughts = [] if self._split(self.generation) is None else [Document(self.thoughts)]
        return [*super().source_documents, *thoughts]

    def _get_source_token_ranges(self) -> list[TokenRange]:
        return [tokens for _, tokens in self._located_sources()]

    def _get_source_spans(self) -> list[SourceSpan]:
        return [span for span, _ in self._located_sources()]

    def _located_sources(self) -> list[tuple[SourceSpan, TokenRange]]:
        """Sources of the prompt's documents, then those of the thoughts, with their tokens."""
        split = self._split(self.generation)
        if split is None:
            return []
        located = list(
            zip(super()._get_source_spans(), super()._get_source_token_ranges(), strict=True)
        )
        (start, end), _ = split
        first, last = self.thought_token_range
        generation, offset = self.encoded_generation, self.generation_token_start
        thoughts = PlacedText(generation.text[start:end], start, start, end)
        pieces = cut_documents(
            generation.text,
            generation.ranges[first - offset : last - offset],
            [thoughts],
            self.source_type,
        )
        number = len(self.document_ranges)
        for piece in pieces:
            text = thoughts.text[piece.start : piece.end]
            span = SourceSpan(len(located), number, piece.start, piece.end, text)
            located.append((span, (first + piece.tokens[0], first + piece.tokens[1])))
        return located


class SimpleThoughtAttributionTask(ThoughtAttributionTask):
    """A query alone: only thoughts are sources.

    Args:
        query: the user's message.

    The other arguments are those of `AttributionTaskWithChatPrompt`.
    """

    def __init__(
        self,
        query: str,
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_THOUGHT_GENERATE_KWARGS,
        previous_messages: Sequence[Message] | None = None,
        source_type: str = DEFAULT_SOURCE_TYPE,
        cache: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.query = check_text(query, "query")
        super().__init__(
            model,
            tokenizer,
            cache,
            generate_kwargs,
            previous_messages=previous_messages,
            source_type=source_type,
            **kwargs,
        )

    @property
    def prompt(self) -> str:
        """The query."""
        return self.query

    def _get_document_ranges(self) -> list[CharRange]:
        return []
