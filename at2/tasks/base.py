"""What every attribution task is: sources in a prompt or response, and a target in the response.

Where the sources are and which part of the response is the target is the business of subclasses;
how prompt and response become ids and text is that of `Exchange`.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from transformers import BatchEncoding

from at2.errors import InputError
from at2.model.ablation import Method, ablated_logit_probs, sample_masks
from at2.model.tokens import MarkedTokens
from at2.ranges import CharRange, TokenRange
from at2.tasks.prompt_and_response import Exchange
from at2.tasks.sources import check_target_split, split_ranges
from at2.tasks.spans import Document, SourceSpan, TargetSpan
from at2.tasks.target import Target
from at2.text.alignment import assign_tokens


class AttributionTask(Exchange):
    """A prompt, a response, and sources to which the response is attributed.

    A subclass says what the prompt is, where the sources are and which part of the response is the
    target. The arguments are those of `Exchange`.
    """

    def generate(self, mask: Sequence[bool] | None = None) -> list[int]:
        """Generate a response and return its ids, without making it the task's own.

        Args:
            mask: per source whether the model sees it; all of them by default.

        Raises:
            InputError: the mask is not one value per source.
            PromptTooLongError: the prompt leaves no room for a response.
        """
        return self._respond(self._visible(mask))

    def _visible(self, mask: Sequence[bool] | None) -> list[int]:
        """Per token of the prompt 1, or 0 where the mask hides its source."""
        visible = [1] * len(self.input_ids)
        if mask is not None:
            if len(mask) != self.num_sources:
                raise InputError(
                    f"a mask of {len(mask)} values for {self.num_sources} sources", param="mask"
                )
            for keep, (start, end) in zip(mask, self.source_token_ranges, strict=True):
                visible[start:end] = [int(keep)] * (end - start)
        return visible

    def get_input_text_and_tokens(
        self, return_tensors: str | None = None, mask: Sequence[bool] | None = None
    ) -> tuple[str, BatchEncoding]:
        """The prompt and its tokens, sources that `mask` hides masked; see `get_input_tokens`.

        Raises:
            InputError: a mask without tensors, or not of one value per source.
        """
        tokens = self.get_input_tokens(return_tensors)
        if mask is not None:
            if return_tensors != "pt":
                raise InputError('a mask needs return_tensors="pt"', param="return_tensors")
            visible = tokens["attention_mask"].new_tensor(self._visible(mask))
            tokens["attention_mask"] = visible[None]
        return self.input_text, tokens

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
    def source_documents(self) -> list[Document]:
        """The documents that `source_spans` point into, by their number there."""
        return [Document(self.input_text)]

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
    def query_token_range(self) -> TokenRange:
        """The tokens that are asked with: those between the last source and the target, less the
        last one, at which the model already predicts the target. Empty if there are none."""
        end = max(0, self.target_token_range[0] - 1)
        start = max((last for _, last in self.source_token_ranges), default=end)
        return min(start, end), end

    @property
    def _target(self) -> Target:
        return Target(self.encoded_generation, self.generation_token_start, self.target_token_range)

    @property
    def target(self) -> str:
        """The target as text."""
        return self._target.text

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
        """The sentences of the target, in its characters; one for all of a target such as `👍`."""
        return self._target.statements

    def target_span(self, start: int | None = None, end: int | None = None) -> TargetSpan:
        """The tokens of a span of the target, and the text that they cover.

        Args:
            start, end: characters of the target; its beginning and end by default.

        Raises:
            SpanError: the span is empty, reversed, outside the target, or covers no token.
        """
        return self._target.span(start, end)

    def token_span(self, token_start: int, token_end: int) -> TargetSpan:
        """A range of the target's tokens, counted from its first, and the text that they cover.

        Raises:
            SpanError: the range is empty, reversed or outside the target.
        """
        return self._target.token_span(token_start, token_end)

    def find_span(self, text: str, occurrence: int | None = None) -> CharRange:
        """Where the target says `text`, letter by letter: `attribute(*task.find_span("1987"))`.

        Args:
            text: what to look for.
            occurrence: which one, from 0, if there are several; they may overlap.

        Returns:
            Characters `(start, end)` of the target.

        Raises:
            SpanError: it is not there, or several times and `occurrence` is not given.
        """
        return self._target.find(text, occurrence)

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
        return self._target.token_text(token_start, token_end)

    def get_sub_token_ranges(
        self, token_range: TokenRange, split_by: str | None = None
    ) -> list[TokenRange]:
        """Disjoint parts of a range of tokens of prompt and response.

        Args:
            token_range: positions in prompt and response.
            split_by: `paragraph`, `sentence`, `word`, `token`, or None for all of it.

        Returns:
            Token ranges, none empty; none at all for an empty range, or when nothing in it is a
            sentence.

        Raises:
            InputError: `split_by` is something else.
        """
        check_target_split(split_by)
        first, last = token_range
        if first == last:
            return []
        if split_by is None:
            return [(first, last)]
        if split_by == "token":
            return [(i, i + 1) for i in range(first, last)]
        ranges = self.token_char_ranges[first:last]
        start, end = ranges[0][0], ranges[-1][1]
        text = self.text
        pieces = [(start + s, start + e) for s, e in split_ranges(text[start:end], split_by)]
        assigned = assign_tokens(text, ranges, pieces)
        return [(first + s, first + e) for s, e in assigned if s < e]

    def get_sub_target_token_ranges(
        self, split_by: str | None = None, relative: bool = False
    ) -> list[TokenRange]:
        """Disjoint parts of the target.

        Args:
            split_by: see `get_sub_token_ranges`.
            relative: count tokens from the target's first.
        """
        offset = self.target_token_range[0] if relative else 0
        parts = self.get_sub_token_ranges(self.target_token_range, split_by)
        return [(start - offset, end - offset) for start, end in parts]

    def show_target_with_indices(self, split_by: str = "sentence") -> None:
        """Print the target with the characters `(start, end)` of each part before it."""
        from at2.display.terminal import with_indices

        print(with_indices(self.target, split_by))

    # What goes to the model

    @property
    def marked_tokens(self) -> MarkedTokens:
        """Prompt and response as ids, with sources, target and query."""
        if "marked_tokens" not in self._cache:
            self._cache["marked_tokens"] = MarkedTokens(
                self.token_ids,
                self.target_token_range,
                source_ranges=self.source_token_ranges,
                query_range=self.query_token_range,
            )
        return cast(MarkedTokens, self._cache["marked_tokens"])

    def get_masks_and_logit_probs(
        self,
        num_masks: int,
        alpha: float,
        batch_size: int | None = None,
        base_seed: int = 0,
        ablation_method: Method = "mask",
        verbose: bool = False,
    ) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Hide random sources and measure how likely the target remains.

        Args:
            num_masks: number of random sets of sources.
            alpha: probability that a source is kept.
            batch_size: at most so many whole sequences' worth of tokens at once.
            base_seed: seed of the first mask.
            ablation_method: `mask` keeps positions, `remove` closes the gaps.
            verbose: accepted for the published signature.

        Returns:
            Masks [masks, sources], True where kept, and per target token the logit of its
            probability [masks, targets].

        Raises:
            InputError: `alpha` is not between 0 and 1.
            PromptTooLongError: the model does not take prompt and response.
        """
        masks = sample_masks(num_masks, self.num_sources, alpha, base_seed)
        logit_probs = ablated_logit_probs(
            self.model,
            self.marked_tokens,
            masks,
            method=ablation_method,
            token_budget=None if batch_size is None else batch_size * len(self.token_ids),
        )
        return masks, np.asarray(logit_probs, dtype=np.float32)
