"""What every attribution method offers, whatever it computes.

A method scores each source for one span of the target at a time. Most fill one matrix first, a
score for every (target token, source): there a span is the mean over its tokens, and any number of
spans costs one slice and one sum each. Knows nothing of models.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from at2.errors import InputError, check_count
from at2.methods.citing import DEFAULT_MIN_SHARE, cited
from at2.printable import printable
from at2.ranges import CharRange, TokenRange
from at2.ranking import best_sources
from at2.tasks import AttributionTask, SourceSpan

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

DEFAULT_NUM_SOURCES_TO_SHOW = 8
"""Rows of the table that `show_attribution` makes."""

RECENT_SPANS = 64
"""Spans whose scores are kept where each costs a pass: asking again is free."""

_T = TypeVar("_T")


class PerResponse(Generic[_T]):
    """What follows from a task's response: computed when first asked for and kept, until the task
    is given another response. Once computed, several threads may ask at a time.

    Args:
        task: the task.
    """

    def __init__(self, task: AttributionTask) -> None:
        self._task = task
        self._kept: tuple[int, _T] | None = None

    def get(self, compute: Callable[[], _T]) -> _T:
        """What was computed for the response that the task has now; `compute` is called if nothing
        was."""
        number, kept = self._task.response_number, self._kept
        if kept is None or kept[0] != number:
            kept = self._kept = number, compute()
        return kept[1]

    def put(self, known: _T) -> None:
        """Keep what is known for the response that the task has now."""
        self._kept = self._task.response_number, known


@dataclass(frozen=True)
class RankedSource:
    """A source with its place in the ranking (from 1), its score, and whether it counts: see
    `at2.methods.citing`."""

    rank: int
    source: SourceSpan
    score: float
    cited: bool


@dataclass(frozen=True)
class Attribution:
    """The answer for one span of the target.

    Attributes:
        start, end: the span that was asked for, in characters of the target.
        text: the target between them.
        attributed_text: the tokens that were in fact attributed; it may be wider than `text`.
        sources: best first.
    """

    start: int
    end: int
    text: str
    attributed_text: str
    sources: tuple[RankedSource, ...]


class Attributor(ABC):
    """An attribution method applied to one task.

    A subclass says what a span's scores are (`_get_attribution_scores_for_token_range`, the name in
    the published package); see `TokenScoreAttributor` for methods that score token by token.

    Args:
        task: the task; its response is generated when first needed.
    """

    def __init__(self, task: AttributionTask) -> None:
        self.task = task
        self._recent = PerResponse[dict[TokenRange, NDArray[np.float32]]](task)

    @property
    def name(self) -> str:
        """The method's name as `METHODS` has it; of another method, the class's."""
        return type(self).__name__

    @abstractmethod
    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[Any]:
        """Scores [sources] of a span that covers a token of a target that has sources.

        Args:
            token_start, token_end: the span in tokens of the target.
        """

    def prepare_for_attribution(self) -> None:  # noqa: B027 (not every method has something)
        """Compute everything that all spans share, so that later calls cost as little as can be."""

    def get_attribution_scores(
        self,
        start: int | str | None = None,
        end: int | None = None,
        token_start: int | None = None,
        token_end: int | None = None,
        verbose: bool = False,
    ) -> NDArray[np.float32]:
        """The score of every source for a span of the target.

        Args:
            start, end: the span in characters of the target; either may be left out. A text in
                place of `start` is the span that says so, see `AttributionTask.find_span`.
            token_start, token_end: instead, the span in tokens of the target.
            verbose: print the text that is attributed.

        Returns:
            float32 [num_sources].

        Raises:
            SpanError: the span is reversed, outside the target, or covers no token; or the target
                does not say the text, or says it several times.
            InputError: several kinds of span are given.
        """
        span = self._token_range(start, end, token_start, token_end)
        if verbose:
            text = printable(self.task.token_range_text(*span).strip())
            print("Computing attribution scores for:\n", text)
        if self.task.num_sources == 0:
            return np.zeros(0, dtype=np.float32)
        return self._scores_of(span)

    def _scores_of(self, span: TokenRange) -> NDArray[np.float32]:
        """Scores [sources] of a span in tokens of the target, those of recent spans kept."""
        recent = self._recent.get(dict)
        if span not in recent:
            scores = self._get_attribution_scores_for_token_range(*span)
            while len(recent) >= RECENT_SPANS:
                del recent[next(iter(recent))]
            recent[span] = np.asarray(scores, dtype=np.float32)
        return recent[span].copy()

    def attribute(
        self,
        start: int | str | None = None,
        end: int | None = None,
        top_k: int | None = None,
        min_share: float = DEFAULT_MIN_SHARE,
        *,
        token_start: int | None = None,
        token_end: int | None = None,
    ) -> Attribution:
        """Sources of a span of the target ranked by score, ties by their order in the context.

        `attribute("Lisbon")`, `attribute(10, 16)` and `attribute(token_start=2, token_end=3)`.

        Args:
            start, end, token_start, token_end: the span; see `get_attribution_scores`.
            top_k: only so many of the best; all by default.
            min_share: the share of all positive scores from which on a source is cited.

        Raises:
            SpanError: see `get_attribution_scores`.
            InputError: `top_k` is below 1, or `min_share` not between 0 and 1.
        """
        check_count(top_k, "top_k")
        if token_start is None and token_end is None:
            first, last = self._char_range(start, end)
            span = self.task.target_span(first, last)
        else:
            span = self.task.token_span(*self._token_range(start, end, token_start, token_end))
            first, last = span.start, span.end
        offset = self.task.target_token_range[0]
        scores = self.get_attribution_scores(
            token_start=span.token_start - offset, token_end=span.token_end - offset
        )
        counts = cited(scores, min_share)
        sources = self.task.source_spans
        return Attribution(
            start=first,
            end=last,
            text=self.task.target[first:last],
            attributed_text=span.text,
            sources=tuple(
                RankedSource(rank, sources[i], float(scores[i]), bool(counts[i]))
                for rank, i in enumerate(best_sources(scores, top_k), start=1)
            ),
        )

    def show_attribution(
        self,
        start: int | str | None = None,
        end: int | None = None,
        token_start: int | None = None,
        token_end: int | None = None,
        num_sources_to_show: int = DEFAULT_NUM_SOURCES_TO_SHOW,
        cmap: str = "RdBu",
        verbose: bool = False,
    ) -> "Styler":
        """The best sources as a styled table with columns Score and Source (needs pandas).

        Raises:
            SpanError: see `get_attribution_scores`.
            InputError: `num_sources_to_show` is below 1.
        """
        from at2.display import score_table

        check_count(num_sources_to_show, "num_sources_to_show")

        scores = self.get_attribution_scores(start, end, token_start, token_end, verbose)
        return score_table(scores, self.task.sources, num_sources_to_show, cmap)

    def highlight_attribution(
        self,
        start: int | str | None = None,
        end: int | None = None,
        token_start: int | None = None,
        token_end: int | None = None,
        max_score: float | None = None,
    ) -> str:
        """The whole prompt and response with terminal colours.

        Sources are shaded blue by positive and red by negative score, the span is yellow.
        """
        from at2.display import highlight

        span = self._token_range(start, end, token_start, token_end)
        scores = self.get_attribution_scores(token_start=span[0], token_end=span[1])
        return highlight(self.task, span, scores, max_score)

    def to_html(self, title: str = "Attribution") -> str:
        """A page that stands alone, to share: see `at2.display.attribution_page`."""
        from at2.display import attribution_page

        return attribution_page(self, title=title)

    def _char_range(self, start: int | str | None, end: int | None) -> CharRange:
        """Characters of the target."""
        if isinstance(start, str):
            if end is not None:
                raise InputError("give a text or start and end, not both", param="end")
            return self.task.find_span(start)
        return 0 if start is None else start, len(self.task.target) if end is None else end

    def _token_range(
        self,
        start: int | str | None,
        end: int | None,
        token_start: int | None,
        token_end: int | None,
    ) -> tuple[int, int]:
        """Tokens relative to the target."""
        by_characters = start is not None or end is not None
        by_tokens = token_start is not None or token_end is not None
        if by_characters and by_tokens:
            raise InputError("give a span in characters or in tokens, not both", param="start")
        if by_characters:
            return self.task.target_range_to_token_range(
                *self._char_range(start, end), relative=True
            )
        length = len(self.task.target_ids)
        first = 0 if token_start is None else token_start
        last = length if token_end is None else token_end
        self.task.token_span(first, last)
        return first, last


class TokenScoreAttributor(Attributor):
    """A method that scores every source for every token of the target; a span is the mean.

    A subclass fills the matrix in `_compute_scores`, which is called once for a response. After
    `prepare_for_attribution` spans only read, so several threads may ask for them at a time.

    Args:
        task: the task; its response is generated when first needed.
        cache: where the matrix is looked for and put, under "scores" and the other way round,
            [sources, targets], as in the published package: a tensor or an array.
    """

    def __init__(
        self, task: AttributionTask, cache: MutableMapping[str, Any] | None = None
    ) -> None:
        super().__init__(task)
        self._cache: MutableMapping[str, Any] = {} if cache is None else cache
        self._taken: Any = None  # what the cache held for the response before
        self._scores = PerResponse[NDArray[np.float32]](task)

    @abstractmethod
    def _compute_scores(self) -> NDArray[np.float32]:
        """Scores [targets, sources], neither of which is empty."""

    @property
    def scores(self) -> NDArray[np.float32]:
        """Scores [targets, sources], computed when first read and kept while the response stays;
        a copy.

        Raises:
            InputError: the scores in the cache are of another task.
            PromptTooLongError: the model does not take prompt and response.
        """
        return self._kept_scores.copy()

    @property
    def _kept_scores(self) -> NDArray[np.float32]:
        return self._scores.get(self._find_scores)

    def _find_scores(self) -> NDArray[np.float32]:
        """The matrix in the cache, or else a computed one."""
        shape = (len(self.task.target_ids), self.task.num_sources)
        given = self._cache.get("scores")
        if given is not None and given is not self._taken:
            scores: NDArray[np.float32] = torch.as_tensor(given).detach().float().cpu().numpy()
            if scores.shape != shape[::-1]:
                raise InputError(
                    f"the cached scores are {list(scores.shape)} where the task has "
                    f"{shape[1]} sources × {shape[0]} target tokens",
                    param="cache",
                )
            self._taken = given
            return scores.T.copy()
        if self.task.num_sources == 0 or self.task.has_empty_target:
            return np.zeros(shape, dtype=np.float32)
        computed = self._compute_scores()
        self._taken = self._cache["scores"] = torch.from_numpy(computed.T.copy())
        return computed

    def prepare_for_attribution(self) -> None:
        """Fill the matrix, and find the sources."""
        _ = self._kept_scores, self.task.source_spans

    def _scores_of(self, span: TokenRange) -> NDArray[np.float32]:
        """A slice and a mean: nothing worth keeping, and nothing that another thread changes."""
        return self._get_attribution_scores_for_token_range(*span).astype(np.float32)

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        means: NDArray[np.float64] = self._kept_scores[token_start:token_end].mean(
            axis=0, dtype=np.float64
        )
        return means


def sum_by_source(
    token_scores: NDArray[Any], source_ranges: list[tuple[int, int]]
) -> NDArray[np.float32]:
    """Column sums [targets, sources] of scores [targets, tokens] over each source's tokens.

    Differences of running sums in float64: with thousands of columns float32 sums would lose
    digits, and a loop over sources takes longer than everything else.
    """
    targets, tokens = token_scores.shape
    running = np.zeros((targets, tokens + 1), dtype=np.float64)
    np.cumsum(token_scores, axis=1, dtype=np.float64, out=running[:, 1:])
    edges = np.array(source_ranges, dtype=np.int64).reshape(-1, 2).clip(max=tokens)
    sums: NDArray[np.float64] = running[:, edges[:, 1]] - running[:, edges[:, 0]]
    return sums.astype(np.float32)
