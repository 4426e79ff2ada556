"""Hops: what a span owes to thoughts, or to statements before it, is carried on to the documents
behind these.

An answer often repeats a thought, and the thought a document: attention of the answer shows the
thought. With a(x, p) the score of a piece p for a span or statement x, sources s of the prompt, and
statements i, j of what the model wrote,

    share(i, p) = max(a(i, p), 0) / Σ_q max(a(i, q), 0)   over all sources, and statements before i
    m_0(j) = max(a(t, j), 0)                              for statements j before the span t
    m_n(j) = Σ_i m_{n-1}(i) · share(i, j)
    score_n(t, s) = score_{n-1}(t, s) + Σ_i m_{n-1}(i) · share(i, s),   score_0(t, s) = a(t, s)

A thought that is a source itself keeps what reaches it in the last hop and has handed on all else:
Σ_i m_{n-1}(i) · share(i, s). What then is left with other statements, m_n, is left out, and so is
what reaches a statement that owes nothing to anything before it. Scores of a level are not exactly
sums of the level below, as shares count positive scores.

With a contrast, only scores of the prompt's sources are contrasted: those of statements are not, as
the query comes before them.

FlashTrace (Pan et al. 2026, arXiv 2602.01914) traces importance back through a reasoning chain in
the same way, with a measure of its own in place of a method's shares.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError
from at2.methods.base import Attributor, PerResponse, sum_by_source
from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model.attention import token_scores
from at2.model.tokens import MarkedTokens
from at2.ranges import TokenRange

MAX_HOPS = 16
"""Chains are no longer than what a model wrote has statements, and what is left soon is small."""


def check_hops(hops: int) -> int:
    """A number of hops, if there may be so many.

    Raises:
        InputError: there may not.
    """
    if not 0 <= hops <= MAX_HOPS:
        raise InputError(f"hops is {hops}, not between 0 and {MAX_HOPS}", param="hops")
    return hops


@dataclass(frozen=True)
class _Written:
    """Scores of all that a model wrote, whatever part of it is asked for.

    Attributes:
        first: position of its first token.
        rows: [tokens of the generation, sources and then statements].
        ends: of these sources and statements, as positions in prompt and response.
        in_prompt: per source whether it is one of the prompt.
        shares: [statements, sources and then statements].
    """

    first: int
    rows: NDArray[np.float32]
    ends: NDArray[np.int64]
    in_prompt: NDArray[np.bool_]
    shares: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    def scores(self, tokens: TokenRange) -> NDArray[np.float64]:
        """Mean scores [sources and statements] of some tokens, zero for what does not end before
        them."""
        start, end = (position - self.first for position in tokens)
        mean: NDArray[np.float64] = self.rows[start:end].mean(axis=0, dtype=np.float64)
        return np.where(self.ends <= tokens[0], mean, 0.0)


class HopsAttributor(Attributor):
    """A method that weighs attention; what it gives to statements is carried on to their sources.

    It takes one pass, for all hops and spans of a response.

    Args:
        attributor: the method.
        hops: over how many statements; with 0 the scores are those of the method.

    Raises:
        InputError: the method does not weigh attention, or the hops are not between 0 and 16.
    """

    def __init__(self, attributor: Attributor, hops: int = 1) -> None:
        if not isinstance(attributor, WeightedAttentionAttributor):
            raise InputError(
                f"hops need a method that weighs attention, not {attributor.name}",
                param="hops",
            )
        super().__init__(attributor.task)
        self.attributor = attributor
        self.hops = check_hops(hops)
        self._written = PerResponse[_Written](attributor.task)

    @property
    def name(self) -> str:
        """That of the method."""
        return self.attributor.name

    def with_hops(self, hops: int) -> "HopsAttributor":
        """The same over another number of statements, without another pass."""
        other = HopsAttributor(self.attributor, hops)
        other._written = self._written
        return other

    def prepare_for_attribution(self) -> None:
        """Take the pass."""
        _ = self._written.get(self._read), self.task.source_spans

    def _read(self) -> _Written:
        """What follows from one pass, for every span."""
        task = self.task
        first = task.generation_token_start
        generation = first, task.generation_token_end
        marked = MarkedTokens(task.token_ids, generation, query_range=task.query_token_range)
        scores = token_scores(task.model, marked, self.attributor.weighing).cpu().numpy()
        statements = task.get_sub_token_ranges(generation, "sentence")
        pieces = [*task.source_token_ranges, *statements]
        ends = np.array([end for _, end in pieces], dtype=np.int64)
        in_prompt = ends[: task.num_sources] <= first
        written = _Written(first, sum_by_source(scores, pieces), ends, in_prompt)
        return replace(
            written,
            shares=np.array([_shares(written.scores(one), in_prompt) for one in statements]),
        )

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        written, offset = self._written.get(self._read), self.task.target_token_range[0]
        in_prompt, count = written.in_prompt, self.task.num_sources
        direct = written.scores((offset + token_start, offset + token_end))
        scores, carried = direct[:count], np.maximum(direct[count:], 0.0)
        for _ in range(self.hops if len(carried) else 0):
            handed = carried @ written.shares  # [sources and statements]
            scores = np.where(in_prompt, scores, 0.0) + handed[:count]
            carried = handed[count:]
        return scores


def _shares(scores: NDArray[np.float64], in_prompt: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores [sources and statements] of a statement as shares. Thoughts are statements, and count
    once where they are sources, too."""
    positive: NDArray[Any] = np.maximum(scores, 0.0)
    count = len(in_prompt)
    total = positive[:count][in_prompt].sum() + positive[count:].sum()
    shares: NDArray[np.float64] = positive / total if total > 0 else np.zeros_like(positive)
    return shares
