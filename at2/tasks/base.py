"""What every attribution task is: ids of a prompt and a response, sources in one, a target in the
other.

Ids are the truth. Text is decoded from them once, and characters of the target are mapped to tokens
by the offsets that came with the decoding. Where the sources are is the business of subclasses.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from at2.ablation import Method, ablated_logit_probs, sample_masks
from at2.alignment import CharRange, TokenizedText, TokenRange, assign_tokens
from at2.decoding import decode_with_offsets
from at2.encoding import check_text, encode_continuation, encode_text
from at2.errors import InputError, SpanError
from at2.prompts import Prompt, check_length, context_length
from at2.sentences import split_paragraphs, split_sentences, split_text, split_words

DEFAULT_GENERATE_KWARGS: Mapping[str, Any] = {
    "max_new_tokens": 512,
    "do_sample": False,
    "top_p": None,
    "top_k": None,
    "temperature": None,
}
_SPLITTERS = {
    "paragraph": split_paragraphs,
    "sentence": split_sentences,
    "word": split_words,
}
_CYAN, _RESET = "\033[36m", "\033[0m"


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


class AttributionTask(ABC):
    """A prompt, a response, and sources to which the response is attributed.

    A subclass says what the prompt is, where the sources are and which part of the response is the
    target. The response is generated when it is first needed, unless it is set before.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, a "fast" one.
        generate_kwargs: arguments of `model.generate`; greedy, up to 512 tokens, by default.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        generate_kwargs: Mapping[str, Any] = DEFAULT_GENERATE_KWARGS,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.generate_kwargs = dict(generate_kwargs)
        # What depends on the response; emptied when another one is set.
        self._cache: dict[str, Any] = {}

    # The prompt

    @property
    @abstractmethod
    def input_text(self) -> str:
        """The prompt as the model reads it, with all markers."""

    @cached_property
    def encoded_prompt(self) -> Prompt:
        """The encoded prompt. Here all of `input_text` is taken for the template's own."""
        return Prompt(encode_text(self.tokenizer, self.input_text, ()))

    @property
    def input_ids(self) -> list[int]:
        """Token ids of the prompt."""
        return list(self.encoded_prompt.encoded.ids)

    def check_length(self, new_tokens: int | None = None) -> None:
        """Check that the prompt and so many new tokens fit the model.

        Args:
            new_tokens: by default the length of the response if it is known, else 1.

        Raises:
            PromptTooLongError: they do not.
        """
        if new_tokens is None:
            new_tokens = len(self.generation_ids) if "generation_ids" in self._cache else 1
        check_length(self.model, len(self.encoded_prompt.encoded.ids), new_tokens)

    # The response

    @property
    def generation_ids(self) -> list[int]:
        """Token ids of the response, with the end-of-sequence token if the model wrote one."""
        if "generation_ids" not in self._cache:
            self.set_generation_ids(self.generate())
        return list(self._cache["generation_ids"])

    def set_generation_ids(self, ids: Iterable[int]) -> None:
        """Attribute the response with these ids.

        Raises:
            InputError: an id is not in the model's vocabulary.
        """
        ids = [int(token_id) for token_id in ids]
        size = self.model.config.get_text_config().vocab_size
        for token_id in ids:
            if not 0 <= token_id < size:
                raise InputError(f"token id {token_id} is not in the vocabulary of {size}")
        self._cache.clear()
        self._cache["generation_ids"] = ids

    def set_generation(self, text: str) -> None:
        """Attribute a response written elsewhere. Afterwards `generation == text`.

        Raises:
            PromptError: the text is not valid Unicode.
        """
        check_text(text, "response")
        encoded = encode_continuation(
            self.tokenizer,
            self.encoded_prompt.encoded,
            self.encoded_prompt.user_spans,
            text,
            self._response_user_spans(text),
        )
        self._cache.clear()
        self._cache["generation_ids"] = list(encoded.ids)
        self._cache["encoded_generation"] = encoded

    def _response_user_spans(self, text: str) -> list[CharRange]:
        """The parts of a given response in which control tokens are text: all of it."""
        return [(0, len(text))]

    def generate(self, mask: Sequence[bool] | None = None) -> list[int]:
        """Generate a response and return its ids, without making it the task's own.

        Args:
            mask: per source whether the model sees it; all of them by default.

        Raises:
            PromptTooLongError: the prompt leaves no room for a response.
        """
        visible = [1] * len(self.input_ids)
        if mask is not None:
            for keep, (start, end) in zip(mask, self.source_token_ranges, strict=True):
                visible[start:end] = [int(keep)] * (end - start)
        return self._generate([self], [visible])[0]

    @classmethod
    def batch_generate(cls, tasks: Sequence["AttributionTask"]) -> list[str]:
        """Generate and set the responses of tasks that share a model, in one batch.

        Returns:
            The responses as text.
        """
        if not tasks:
            return []
        visible = [[1] * len(task.input_ids) for task in tasks]
        for task, ids in zip(tasks, cls._generate(tasks, visible), strict=True):
            task.set_generation_ids(ids)
        return [task.generation for task in tasks]

    @staticmethod
    def _generate(tasks: Sequence["AttributionTask"], visible: list[list[int]]) -> list[list[int]]:
        """Responses to left-padded prompts, each up to and with its end-of-sequence token."""
        first = tasks[0]
        model, prompts = first.model, [task.input_ids for task in tasks]
        for task in tasks:
            task.check_length(1)
        width = max(map(len, prompts))
        kwargs = dict(first.generate_kwargs)
        limit = context_length(model)
        if limit is not None and kwargs.get("max_new_tokens") is not None:
            kwargs["max_new_tokens"] = min(kwargs["max_new_tokens"], limit - width)
        eos = first._eos_ids
        pad = kwargs.setdefault("pad_token_id", min(eos, default=0))
        rows = [[pad] * (width - len(ids)) + ids for ids in prompts]
        masks = [[0] * (width - len(row)) + row for row in visible]
        with torch.no_grad():
            output = model.generate(
                input_ids=torch.tensor(rows, device=model.device),
                attention_mask=torch.tensor(masks, device=model.device),
                **kwargs,
            )  # [tasks, width + new]
        responses = []
        for row in output[:, width:].tolist():
            end = next((i + 1 for i, token_id in enumerate(row) if token_id in eos), len(row))
            responses.append(row[:end])
        return responses

    @property
    def _eos_ids(self) -> frozenset[int]:
        eos = self.generate_kwargs.get("eos_token_id")
        if eos is None:
            eos = getattr(self.model.generation_config, "eos_token_id", None)
        if eos is None:
            return frozenset()
        return frozenset([eos] if isinstance(eos, int) else eos)

    @property
    def encoded_generation(self) -> TokenizedText:
        """The response without trailing end-of-sequence tokens: text, ids, characters per token."""
        ids = self.generation_ids
        if "encoded_generation" not in self._cache:
            while ids and ids[-1] in self._eos_ids:
                ids.pop()
            decoded = decode_with_offsets(self.tokenizer, ids, self.encoded_prompt.encoded.ids)
            self._cache["encoded_generation"] = decoded
        return cast(TokenizedText, self._cache["encoded_generation"])

    @property
    def generation(self) -> str:
        """The response as text, without the end-of-sequence token."""
        return self.encoded_generation.text

    @property
    def generation_token_start(self) -> int:
        """Position of the response's first token."""
        return len(self.encoded_prompt.encoded.ids)

    @property
    def generation_token_end(self) -> int:
        """Position after the response's last token, the end-of-sequence token not counted."""
        return self.generation_token_start + len(self.encoded_generation.ids)

    # Both

    @property
    def token_ids(self) -> list[int]:
        """Token ids of prompt and response."""
        return [*self.encoded_prompt.encoded.ids, *self.generation_ids]

    @property
    def text(self) -> str:
        """Prompt and response as text, without the end-of-sequence token."""
        return self.input_text + self.generation

    @property
    def token_char_ranges(self) -> list[CharRange]:
        """Characters of `text` per token of `token_ids`; empty for end-of-sequence tokens."""
        offset, length = len(self.encoded_prompt.encoded.text), len(self.text)
        generation = [
            (offset + start, offset + end) for start, end in self.encoded_generation.ranges
        ]
        ended = len(self.generation_ids) - len(generation)
        return [*self.encoded_prompt.encoded.ranges, *generation, *[(length, length)] * ended]

    # Sources

    @property
    def source_token_ranges(self) -> list[TokenRange]:
        """Per source its tokens, as positions in prompt and response; no two share a token."""
        if "source_token_ranges" not in self._cache:
            self._cache["source_token_ranges"] = self._get_source_token_ranges()
        return cast(list[TokenRange], self._cache["source_token_ranges"])

    @abstractmethod
    def _get_source_token_ranges(self) -> list[TokenRange]:
        """Find the token ranges of the sources."""

    @property
    def source_spans(self) -> list[SourceSpan]:
        """The sources, in the order of `source_token_ranges`."""
        if "source_spans" not in self._cache:
            self._cache["source_spans"] = self._get_source_spans()
        return cast(list[SourceSpan], self._cache["source_spans"])

    def _get_source_spans(self) -> list[SourceSpan]:
        """The sources with `input_text` as their only document."""
        spans = []
        for index, (first, last) in enumerate(self.source_token_ranges):
            start, end = self.encoded_prompt.encoded.text_range(first, last)
            spans.append(SourceSpan(index, 0, start, end, self.input_text[start:end]))
        return spans

    @property
    def num_sources(self) -> int:
        """The number of sources."""
        return len(self.source_token_ranges)

    @property
    def sources(self) -> list[str]:
        """The sources as text."""
        return [span.text for span in self.source_spans]

    def get_source(self, index: int) -> str:
        """One source as text."""
        return self.source_spans[index].text

    # The target

    @property
    @abstractmethod
    def target_token_range(self) -> TokenRange:
        """The tokens to attribute, as positions in prompt and response."""

    @property
    def _target_char_range(self) -> CharRange:
        """The target in characters of the response."""
        start, end = self.target_token_range
        if (start, end) == (self.generation_token_start, self.generation_token_end):
            return 0, len(self.generation)
        offset = self.generation_token_start
        return self.encoded_generation.text_range(start - offset, end - offset)

    @property
    def target(self) -> str:
        """The target as text."""
        start, end = self._target_char_range
        return self.generation[start:end]

    @property
    def target_ids(self) -> list[int]:
        """Token ids of the target."""
        start, end = self.target_token_range
        return self.token_ids[start:end]

    @property
    def has_empty_target(self) -> bool:
        """Whether there is nothing to attribute."""
        start, end = self.target_token_range
        return start == end

    @property
    def statements(self) -> list[CharRange]:
        """The sentences of the target, in its characters; one for all of a target such as `42`."""
        target = self.target
        sentences = list(split_sentences(target))
        if sentences or not target.strip():
            return sentences
        start = len(target) - len(target.lstrip())
        return [(start, len(target.rstrip()))]

    def target_span(self, start: int | None = None, end: int | None = None) -> TargetSpan:
        """The tokens of a span of the target, and the text that they cover.

        Args:
            start, end: characters of the target; its beginning and end by default.

        Raises:
            SpanError: the span is empty, reversed, outside the target, or covers no token.
        """
        length = len(self.target)
        first = 0 if start is None else start
        last = length if end is None else end
        if not 0 <= first < last <= length:
            what = "is empty or reversed" if 0 <= last <= first <= length else "lies outside"
            raise SpanError(
                f"span ({first}, {last}) {what}: the response has {length} characters",
                param="end" if 0 <= first <= length else "start",
            )
        offset, _ = self._target_char_range
        generation, position = self.encoded_generation, self.generation_token_start
        target_start, target_end = self.target_token_range
        tokens = generation.tokens_overlapping(first + offset, last + offset)
        token_start = max(tokens[0] + position, target_start)
        token_end = min(tokens[1] + position, target_end)
        if token_start >= token_end:
            raise SpanError(f"span ({first}, {last}) covers no token", param="start")
        begin, stop = generation.text_range(token_start - position, token_end - position)
        begin, stop = max(begin - offset, 0), min(stop - offset, length)
        return TargetSpan(begin, stop, self.target[begin:stop], token_start, token_end)

    def target_range_to_token_range(
        self, start_index: int | None = None, end_index: int | None = None, relative: bool = False
    ) -> TokenRange:
        """The tokens that a span of the target touches.

        Args:
            start_index, end_index: characters of the target.
            relative: count tokens from the target's first.

        Raises:
            SpanError: see `target_span`.
        """
        span = self.target_span(start_index, end_index)
        offset = self.target_token_range[0] if relative else 0
        return span.token_start - offset, span.token_end - offset

    def token_range_text(self, token_start: int, token_end: int) -> str:
        """The text of a range of the target's tokens, counted from its first."""
        offset = self.target_token_range[0] - self.generation_token_start
        start, end = self.encoded_generation.text_range(offset + token_start, offset + token_end)
        return self.generation[start:end]

    def get_sub_target_token_ranges(
        self, split_by: str | None = None, relative: bool = False
    ) -> list[TokenRange]:
        """Disjoint parts of the target.

        Args:
            split_by: `paragraph`, `sentence`, `word`, `token`, or None for the whole target.
            relative: count tokens from the target's first.

        Returns:
            Token ranges, none empty; none at all for an empty target, or when nothing in it is a
            sentence.
        """
        start, end = self.target_token_range
        if start == end:
            return []
        offset = start if relative else 0
        if split_by is None:
            return [(start - offset, end - offset)]
        if split_by == "token":
            return [(i - offset, i + 1 - offset) for i in range(start, end)]
        position = self.generation_token_start
        first, last = self._target_char_range
        pieces = [
            (first + s, first + e) for s, e in split_ranges(self.generation[first:last], split_by)
        ]
        token_ranges = self.encoded_generation.ranges[start - position : end - position]
        assigned = assign_tokens(self.generation, token_ranges, pieces)
        return [(s + start - offset, e + start - offset) for s, e in assigned if s < e]

    def show_target_with_indices(self, split_by: str = "sentence") -> None:
        """Print the target with the characters `(start, end)` of each part before it."""
        parts, separators, ranges = split_text(self.target, split_by)
        print(
            "".join(
                f"{separator}{_CYAN}[({start}, {end})]{_RESET}{part}"
                for part, separator, (start, end) in zip(parts, separators, ranges, strict=True)
            )
        )

    # Ablations

    def get_masks_and_logit_probs(
        self,
        num_masks: int,
        alpha: float,
        batch_size: int | None = None,
        base_seed: int = 0,
        ablation_method: Method = "mask",
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Hide random sources and measure how likely the target remains.

        Args:
            num_masks: number of random sets of sources.
            alpha: probability that a source is kept.
            batch_size: at most so many whole sequences' worth of tokens at once.
            base_seed: seed of the first mask.
            ablation_method: `mask` keeps positions, `remove` closes the gaps.

        Returns:
            Masks [masks, sources], True where kept, and per target token the logit of its
            probability [masks, targets].
        """
        masks = sample_masks(num_masks, self.num_sources, alpha, base_seed)
        budget = {} if batch_size is None else {"token_budget": batch_size * len(self.token_ids)}
        logit_probs = ablated_logit_probs(
            self.model,
            self.token_ids,
            self.source_token_ranges,
            self.target_token_range,
            masks,
            method=ablation_method,
            **budget,
        )
        return masks, np.asarray(logit_probs, dtype=np.float32)


def split_ranges(text: str, split_by: str) -> list[CharRange]:
    """The paragraphs, sentences or words of a text, or all of it as one `document`.

    Raises:
        InputError: `split_by` is something else.
    """
    if split_by == "document":
        return [(0, len(text))] if text else []
    if split_by not in _SPLITTERS:
        allowed = ", ".join(["document", *_SPLITTERS])
        raise InputError(f"cannot split by {split_by!r}: not one of {allowed}", param="split_by")
    return list(_SPLITTERS[split_by](text))
