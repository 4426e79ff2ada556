"""Attribute a response to the thoughts that a reasoning model wrote before it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from at2.errors import InputError
from at2.ranges import CharRange, TokenRange
from at2.tasks.chat import AttributionTaskWithChatPrompt
from at2.tasks.context import DocumentsContextAttributionTask
from at2.tasks.conversation import ConversationAttributionTask
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


@dataclass(frozen=True)
class _Parts:
    """Where a generation has what, in its characters.

    Attributes:
        thoughts: the thoughts, without their markers.
        markers: the markers, which a model writes as control tokens.
        response: where the response starts; None while the thoughts have no end.
    """

    thoughts: CharRange
    markers: tuple[CharRange, ...]
    response: int | None


class ThoughtSources(AttributionTaskWithChatPrompt):
    """Makes thoughts sources of any task: they are one more document, after those of the prompt,
    split by `source_type`, and the target is what follows them.

    While the thoughts have no end, because generation stopped before, there are no sources and the
    target is empty.
    """

    thought_start_marker = "<think>"
    thought_end_marker = "</think>"

    always_thinks = False
    """Whether a generation without any marker is thoughts, or else a response without thoughts.
    Where the prompt ends with the marker of their start, it is thoughts in any case."""

    _given: tuple[str, _Parts] | None = None

    def set_thoughts_and_response(self, thoughts: str, response: str) -> None:
        """Attribute a response written elsewhere, after the thoughts before it. Both are text,
        whatever they spell: they may mention the markers.

        Raises:
            PromptError: one of them is not valid Unicode.
        """
        check_text(thoughts, "thoughts")
        check_text(response, "response")
        opening = "" if self._opened_by_prompt else f"{self.thought_start_marker}\n"
        start, end = len(opening), len(opening) + len(thoughts)
        closing = end + 1, end + 1 + len(self.thought_end_marker)
        markers = [(0, start - 1), closing] if opening else [closing]
        text = f"{opening}{thoughts}\n{self.thought_end_marker}\n\n{response}"
        parts = _Parts((start, end), tuple(markers), len(text) - len(response))
        self._given = text, parts
        self.set_generation(text)

    @property
    def _opened_by_prompt(self) -> bool:
        """Whether the chat template itself begins the thoughts."""
        prompt = self.encoded_prompt
        end = max((end for _, end in prompt.user_spans), default=0)
        return prompt.encoded.text[end:].rstrip().endswith(self.thought_start_marker)

    def _split(self, text: str) -> _Parts:
        """Find the thoughts in a generation."""
        if self._given is not None and self._given[0] == text:
            return self._given[1]
        marker = re.escape(self.thought_end_marker)
        # A mention of the marker within the thoughts is rarely followed by a blank line.
        ending = re.search(f"{marker}\n\n", text) or re.search(f"{marker}\\s*", text)
        opening = re.match(f"\\s*({re.escape(self.thought_start_marker)})\\s*", text)
        markers = () if opening is None else (opening.span(1),)
        start = 0 if opening is None else opening.end()
        if ending is not None:
            end = ending.start()
            closing = (end, end + len(self.thought_end_marker))
            return _Parts((min(start, end), end), (*markers, closing), ending.end())
        if opening or self.always_thinks or self._opened_by_prompt:
            return _Parts((0, len(text)), markers, None)
        return _Parts((0, 0), (), 0)

    def _response_user_spans(self, text: str) -> list[CharRange]:
        """All but the markers."""
        spans, position = [], 0
        for start, end in [*self._split(text).markers, (len(text), len(text))]:
            spans.append((position, start))
            position = end
        return [(start, end) for start, end in spans if start < end]

    @property
    def _parts(self) -> _Parts:
        return self._split(self.generation)

    @property
    def thought_range(self) -> CharRange:
        """The thoughts in characters of the generation; all of it while they have no end."""
        return self._parts.thoughts

    @property
    def thought_token_range(self) -> TokenRange:
        """Tokens of the thoughts, up to the first that shows part of the end marker."""
        offset, generation, parts = (
            self.generation_token_start,
            self.encoded_generation,
            self._parts,
        )
        if parts.response is None:
            return offset, self.generation_token_end
        start, end = parts.thoughts
        first = generation.tokens_overlapping(start, end)[0] if start < end else 0
        following = parts.markers[-1][0] if parts.markers else 0
        last = generation.tokens_overlapping(following, len(generation.text))[0]
        return offset + min(first, last), offset + last

    @property
    def thoughts(self) -> str:
        """The thoughts as text; all of the generation while they have no end."""
        return self.generation[slice(*self.thought_range)]

    @property
    def response_token_range(self) -> TokenRange:
        """Tokens of what follows the thoughts.

        Raises:
            InputError: the thoughts have no end.
        """
        start = self._parts.response
        if start is None:
            raise InputError(f"the response has no {self.thought_end_marker!r}: thoughts never end")
        first, last = self.encoded_generation.tokens_overlapping(start, len(self.generation))
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
        if self._parts.response is None:
            return self.generation_token_end, self.generation_token_end
        return self.response_token_range

    @property
    def query_token_range(self) -> TokenRange:
        """The tokens of the prompt after the last document, less the last one: thoughts ask
        nothing."""
        return self.query_before(self.generation_token_start)

    @property
    def sources_token_range(self) -> TokenRange:
        """From the first document or thought to the end of the last."""
        first, last = self.documents_token_range
        start, end = self.thought_token_range
        if start == end:
            return first, last
        return (start if first == last else first), end

    @property
    def source_documents(self) -> list[Document]:
        """The documents of the prompt, and the thoughts once they have an end."""
        ended = self._parts.response is not None
        return [*super().source_documents, *([Document(self.thoughts)] if ended else [])]

    def _get_source_token_ranges(self) -> list[TokenRange]:
        return [tokens for _, tokens in self._located_sources()]

    def _get_source_spans(self) -> list[SourceSpan]:
        return [span for span, _ in self._located_sources()]

    def _located_sources(self) -> list[tuple[SourceSpan, TokenRange]]:
        """Sources of the prompt's documents, then those of the thoughts, with their tokens."""
        if self._parts.response is None:
            return []
        located = list(
            zip(super()._get_source_spans(), super()._get_source_token_ranges(), strict=True)
        )
        start, end = self.thought_range
        first, last = self.thought_token_range
        generation, offset = self.encoded_generation, self.generation_token_start
        thoughts = PlacedText(generation.text[start:end], start, start, end)
        pieces = cut_documents(
            generation.text,
            generation.ranges[first - offset : last - offset],
            [thoughts],
            self.source_type,
        )
        number = len(self.source_documents) - 1
        for piece in pieces:
            text = thoughts.text[piece.start : piece.end]
            span = SourceSpan(len(located), number, piece.start, piece.end, text)
            located.append((span, (first + piece.tokens[0], first + piece.tokens[1])))
        return located


class DocumentsThoughtAttributionTask(ThoughtSources, DocumentsContextAttributionTask):
    """Several documents, a query, and the thoughts before the response. The arguments are those of
    `DocumentsContextAttributionTask`."""


class ConversationThoughtAttributionTask(ThoughtSources, ConversationAttributionTask):
    """The turns of a conversation, and the thoughts before the reply. The arguments are those of
    `ConversationAttributionTask`."""


class ThoughtAttributionTask(ThoughtSources):
    """Sources are the documents of the prompt, if any, and then the thoughts, split by
    `source_type`; the target is what follows them. A subclass gives `prompt` and its documents.
    """

    always_thinks = True

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        cache: Mapping[str, Any] | None = None,
        generate_kwargs: Mapping[str, Any] = DEFAULT_THOUGHT_GENERATE_KWARGS,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, tokenizer, generate_kwargs, cache=cache, **kwargs)


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
