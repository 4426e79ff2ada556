"""Tasks whose prompt is the last message of a chat, with sources in documents inside it."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

from at2.errors import InputError, PromptError
from at2.ranges import CharRange, TokenRange
from at2.tasks.base import AttributionTask
from at2.tasks.generation import DEFAULT_GENERATE_KWARGS
from at2.tasks.sources import (
    DEFAULT_SOURCE_TYPE,
    Piece,
    PlacedText,
    check_source_type,
    cut_documents,
)
from at2.tasks.spans import Document, SourceSpan
from at2.text.chat_template import Message, Placement, Prompt, build_prompt


class AttributionTaskWithChatPrompt(AttributionTask):
    """A subclass gives `prompt`, the text of the user's message, and the documents in it.

    Args:
        previous_messages: earlier turns, dictionaries with `role` and `content`.
        source_type: `document`, `paragraph`, `sentence` (the default), `word` or `token`.
        source_ranges: per document the character ranges of its sources, instead of `source_type`.
        source_messages: numbers of the earlier turns that are sources, too; with any, the turns are
            documents behind those of the prompt, and one that is no source is empty.
        chat_template: used instead of the tokenizer's own.
        template_kwargs: further variables of the chat template, such as `enable_thinking`.

    The other arguments are those of `Exchange`.

    Raises:
        InputError: the source type is unknown, or there is no turn of such a number.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
        previous_messages: Sequence[Message] | None = None,
        source_type: str = DEFAULT_SOURCE_TYPE,
        cache: Mapping[str, Any] | None = None,
        *,
        source_ranges: Sequence[Sequence[CharRange]] | None = None,
        source_messages: Collection[int] | None = None,
        chat_template: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(model, tokenizer, generate_kwargs, cache, **kwargs)
        self.previous_messages = list(previous_messages or ())
        self.source_type = check_source_type(source_type)
        self.source_ranges = source_ranges
        self.source_messages = None if source_messages is None else frozenset(source_messages)
        _check_numbers(self.source_messages or (), len(self._turns))
        self.chat_template = chat_template
        self.template_kwargs = template_kwargs

    # The prompt

    @property
    @abstractmethod
    def prompt(self) -> str:
        """The text of the user's message."""

    @property
    def messages(self) -> list[Message]:
        """Every turn of the chat; the last one is the user's message."""
        return [*self.previous_messages, {"role": "user", "content": self.prompt}]

    @cached_property
    def encoded_prompt(self) -> Prompt:
        """The encoded prompt; what users wrote holds no control tokens."""
        return build_prompt(
            self.tokenizer,
            self.messages,
            chat_template=self.chat_template,
            template_kwargs=self.template_kwargs,
        )

    @property
    def input_text(self) -> str:
        """The prompt in its chat template."""
        return self.encoded_prompt.encoded.text

    def apply_chat_template(self, prompt: str) -> str:
        """The chat with another text in place of the user's last message."""
        messages = [*self.messages[:-1], {**self.messages[-1], "content": prompt}]
        built = build_prompt(
            self.tokenizer,
            messages,
            chat_template=self.chat_template,
            template_kwargs=self.template_kwargs,
        )
        return built.encoded.text

    # Documents

    @cached_property
    def document_ranges(self) -> list[CharRange]:
        """Characters of `prompt` per document."""
        return list(self._get_document_ranges())

    @abstractmethod
    def _get_document_ranges(self) -> list[CharRange]:
        """Find the characters of `prompt` that each document takes; they must not overlap."""

    @property
    def _turns(self) -> Sequence[Message]:
        """The turns that can be sources."""
        return self.previous_messages

    @property
    def turn_documents(self) -> list[Document]:
        """The turns as documents, titled by their roles, one that is no source empty; none at all
        unless some are sources."""
        chosen = self.source_messages
        if chosen is None:
            return []
        return [
            Document(turn["content"] if number in chosen else "", title=turn["role"])
            for number, turn in enumerate(self._turns)
        ]

    def prompt_range_to_token_range(self, start_index: int, end_index: int) -> TokenRange:
        """The tokens that touch characters `[start_index, end_index)` of `prompt`."""
        chars = self._placed_prompt.in_whole(start_index, end_index)
        return self.encoded_prompt.encoded.tokens_overlapping(*chars)

    @property
    def _placed_prompt(self) -> PlacedText:
        """Where `prompt` is in `input_text`."""
        place = self.encoded_prompt.contents[-1]
        if place is None and self.prompt:
            raise PromptError("the chat template does not show the user's message")
        return place_content(self.prompt, place)

    @property
    def _placed_documents(self) -> list[PlacedText]:
        """Where the documents are in `input_text`, those of the prompt and then the turns."""
        prompt, documents = self._placed_prompt, []
        for start, end in self.document_ranges:
            text = prompt.text[start:end]
            shown = prompt.in_whole(start, end)
            documents.append(PlacedText(text, prompt.shift + start, *shown))
        turns = self.turn_documents
        places = self.encoded_prompt.contents[: len(turns)]
        return documents + [
            place_content(turn.text, place) for turn, place in zip(turns, places, strict=True)
        ]

    @property
    def source_documents(self) -> list[Document]:
        """The documents that `source_spans` point into, by their number there."""
        return [*self.prompt_documents, *self.turn_documents]

    @property
    def prompt_documents(self) -> list[Document]:
        """The documents in the user's message."""
        return [Document(self.prompt[start:end]) for start, end in self.document_ranges]

    @property
    def query_token_range(self) -> TokenRange:
        """The tokens between the last document and the target, less the last one, at which the
        model already predicts the target: the same whatever the documents are cut into."""
        return self.query_before(self.target_token_range[0])

    def query_before(self, target_start: int) -> TokenRange:
        """`query_token_range` of a target that begins at a position."""
        first, last = self.documents_token_range
        end = max(0, target_start - 1)
        return (end, end) if first == last else (min(last, end), end)

    @property
    def sources_token_range(self) -> TokenRange:
        """Tokens within which all sources lie; empty without any."""
        return self.documents_token_range

    @property
    def documents_token_range(self) -> TokenRange:
        """From the first token of a document to the last one's end; empty without documents."""
        encoded = self.encoded_prompt.encoded
        shown = [d.in_whole(0, len(d.text)) for d in self._placed_documents]
        ranges = [encoded.tokens_overlapping(*chars) for chars in shown if chars[0] < chars[1]]
        filled = [(start, end) for start, end in ranges if start < end]
        if not filled:
            return 0, 0
        return min(start for start, _ in filled), max(end for _, end in filled)

    # Sources

    def _get_source_token_ranges(self) -> list[TokenRange]:
        return [piece.tokens for piece in self._pieces]

    def _get_source_spans(self) -> list[SourceSpan]:
        documents = self.source_documents
        return [
            SourceSpan(i, p.document, p.start, p.end, documents[p.document].text[p.start : p.end])
            for i, p in enumerate(self._pieces)
        ]

    @cached_property
    def _pieces(self) -> list[Piece]:
        """The documents cut into sources, with their tokens in the prompt."""
        encoded = self.encoded_prompt.encoded
        return cut_documents(
            encoded.text,
            encoded.ranges,
            self._placed_documents,
            self.source_type,
            self.source_ranges,
        )


def place_content(text: str, place: Placement | None) -> PlacedText:
    """A message's content in the prompt; nowhere if the template does not show it."""
    place = place or Placement(0, 0, 0)
    return PlacedText(text, place.start - place.offset, place.start, place.end)


def _check_numbers(numbers: Collection[int], count: int) -> None:
    for number in numbers:
        if not 0 <= number < count:
            raise InputError(
                f"no message {number}: there are {count}, counted from 0", param="source_messages"
            )
