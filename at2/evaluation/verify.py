"""Verification: really remove the sources that a method names, and measure what is lost.

What is measured is the span's log-probability `f` in nats, with the response fixed: the drop
`f(all sources) - f(without some)`. What is predicted is less: a method's scores are on a scale of
their own (AT2's weights are normalised, attention has no unit), and only how they compare says
something about drops. So the two meet as shares, which have no scale, and as rankings. A linear
method predicts for several sources together the sum of their scores, and that is compared as a
share of the sum over all sources. Shares count what is positive: hiding a source that speaks
against the span raises `f`, and its negative drop would make the others' shares exceed one.

Two questions are asked about the sources that are cited: are they needed (what is lost without
them), and are they enough (what they hold alone, when all others are hidden)? Where others repeat
them they are enough and not needed; where they work only together with others, the other way round.

Knows attributors and tasks; nothing of how scores come about.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError, check_count
from at2.methods import DEFAULT_MIN_SHARE, Attribution, Attributor
from at2.metrics import spearman
from at2.model.ablation import Method, ablated_logit_probs, sequence_log_probs
from at2.tasks import SourceSpan

DEFAULT_TOP_K = 3
"""Sources that are verified unless told otherwise."""


@dataclass(frozen=True)
class VerifiedSource:
    """A source, what its score predicts, and what hiding it alone does.

    Attributes:
        rank: place in the ranking by score, from 1.
        source: the source.
        score: the method's score, on the method's own scale.
        drop: what the span's log-probability loses without this source, in nats; negative if it
            gains.
        predicted_share: this score as a share of the verified sources' positive scores, 0 for a
            negative one; None if none is positive.
        measured_share: the same of drops.
    """

    rank: int
    source: SourceSpan
    score: float
    drop: float
    predicted_share: float | None
    measured_share: float | None

    @property
    def index(self) -> int:
        """The source's place among the task's sources."""
        return self.source.index


@dataclass(frozen=True)
class VerifiedCitations:
    """What the cited sources of a span are worth together, however many of them are verified.

    Attributes:
        sources: their places among the task's sources, best score first.
        drop: what is lost without them, in nats (necessity).
        log_prob_alone: the span's log-probability with them and no other source, in nats
            (sufficiency).
        needed_share: `drop` as a share of what all sources are worth; None unless that is positive.
        held_share: what they alone are worth as a share of the same, which exceeds 1 where the
            others speak against the span; None unless that is positive.
    """

    sources: tuple[int, ...]
    drop: float
    log_prob_alone: float
    needed_share: float | None
    held_share: float | None


@dataclass(frozen=True)
class Verification:
    """What the best sources of one span are really worth.

    Attributes:
        start, end, text, attributed_text: the span, as in `Attribution`.
        num_tokens: of what was attributed; drops divided by it are per token.
        ablation: how sources were hidden.
        log_prob: the span's log-probability with all sources, in nats.
        sources: the verified ones, best score first.
        drop_together: what is lost without all verified sources.
        drop_all: what is lost without any source at all.
        predicted_share_together: the verified sources' positive scores as a share of all sources'
            positive scores; None if none is positive.
        measured_share_together: `drop_together / drop_all`, which exceeds 1 where the other sources
            speak against the span; None unless `drop_all` is positive.
        rank_correlation: Spearman's, between scores and drops of the verified sources; None for
            fewer than two, or if either are all equal.
        cited: the same questions about the sources that are cited.
    """

    start: int
    end: int
    text: str
    attributed_text: str
    num_tokens: int
    ablation: Method
    log_prob: float
    sources: tuple[VerifiedSource, ...]
    drop_together: float
    drop_all: float
    predicted_share_together: float | None
    measured_share_together: float | None
    rank_correlation: float | None
    cited: VerifiedCitations

    def to_dict(self) -> dict[str, Any]:
        """The same in plain types, for JSON."""
        return asdict(self)


def verify(
    attributor: Attributor,
    start: int | None = None,
    end: int | None = None,
    *,
    top_k: int = DEFAULT_TOP_K,
    min_share: float = DEFAULT_MIN_SHARE,
    ablation: Method = "mask",
) -> Verification:
    """Verify the best sources of one span of the target; see `verify_spans`.

    Args:
        start, end: the span in characters of the target; either may be left out.
    """
    last = len(attributor.task.target) if end is None else end
    (verification,) = verify_spans(
        attributor, [(start or 0, last)], top_k=top_k, min_share=min_share, ablation=ablation
    )
    return verification


def verify_spans(
    attributor: Attributor,
    spans: Sequence[tuple[int, int]],
    *,
    top_k: int = DEFAULT_TOP_K,
    min_share: float = DEFAULT_MIN_SHARE,
    ablation: Method = "mask",
) -> list[Verification]:
    """Measure, for each span, what hiding its best sources does, one by one and all together, and
    what hiding the cited ones or all others does.

    Takes up to `top_k + 3` forward passes for each span and two for all of them; sets of sources
    that come up several times are hidden once.

    Args:
        attributor: the method whose ranking is verified.
        spans: in characters of the target.
        top_k: how many of the best sources; fewer if there are fewer.
        min_share: which sources are cited, see `at2.methods.citing`.
        ablation: how sources are hidden, see `at2.model.ablation.ablated_logit_probs`.

    Raises:
        SpanError: a span is outside the target or covers no token.
        InputError: `top_k` is not positive, `min_share` not between 0 and 1, or the task has no
            sources.
    """
    task = attributor.task
    check_count(top_k, "top_k")
    token_ranges = [task.target_range_to_token_range(*span, relative=True) for span in spans]
    if task.num_sources == 0:
        raise InputError("there are no sources to verify")
    if not spans:
        return []
    rankings = [attributor.attribute(start, end, min_share=min_share) for start, end in spans]

    # 1. Per span, which sources each ablation keeps; everything and nothing come first.
    best = [[s.source.index for s in ranking.sources[:top_k]] for ranking in rankings]
    per_span = [
        np.concatenate([_without(indices, task.num_sources), _of_cited(ranking, task.num_sources)])
        for indices, ranking in zip(best, rankings, strict=True)
    ]
    masks = np.concatenate([all_and_none(task.num_sources), *per_span])

    # 2. One call measures them all, on the tokens from the first span to the last: equal sets are
    # hidden once.
    low, high = min(start for start, _ in token_ranges), max(end for _, end in token_ranges)
    logit_probs = ablated_logit_probs(
        task.model,
        task.marked_tokens.part(low, high),
        masks,
        method=ablation,
        description="Verifying sources",
    )

    # 3. Put each span's rows beside its scores.
    verifications, position = [], 2
    for ranking, token_range, rows in zip(rankings, token_ranges, per_span, strict=True):
        wanted = [0, 1, *range(position, position + len(rows))]
        position += len(rows)
        measured = sequence_log_probs(
            logit_probs[wanted, token_range[0] - low : token_range[1] - low]
        )
        verifications.append(
            _verification(ranking, token_range[1] - token_range[0], ablation, measured)
        )
    return verifications


def all_and_none(num_sources: int) -> NDArray[np.bool_]:
    """Masks [2, sources]: with all of them, and with none."""
    return np.stack([np.ones(num_sources, np.bool_), np.zeros(num_sources, np.bool_)])


def _without(indices: list[int], num_sources: int) -> NDArray[np.bool_]:
    """Masks [indices + 1, sources]: without each one, then without all of them."""
    masks = np.ones((len(indices) + 1, num_sources), dtype=np.bool_)
    masks[range(len(indices)), indices] = False
    masks[-1, indices] = False
    return masks


def _of_cited(ranking: Attribution, num_sources: int) -> NDArray[np.bool_]:
    """Masks [2, sources]: without the cited sources, and without all others."""
    cited = np.zeros(num_sources, dtype=np.bool_)
    cited[[s.source.index for s in ranking.sources if s.cited]] = True
    return np.stack([~cited, cited])


def _verification(
    ranking: Attribution, num_tokens: int, ablation: Method, measured: NDArray[np.float64]
) -> Verification:
    """Args: measured: log-probabilities with all, none, without each, without the best together,
    without the cited, with the cited alone."""
    full, none, *alone, without_best, without_cited, cited_alone = measured.tolist()
    top = ranking.sources[: len(alone)]
    scores = [s.score for s in top]
    drops = [full - value for value in alone]
    predicted, measured_shares = _shares(scores), _shares(drops)
    positive = sum(max(s.score, 0.0) for s in ranking.sources)
    drop_all, drop_together = full - none, full - without_best
    return Verification(
        start=ranking.start,
        end=ranking.end,
        text=ranking.text,
        attributed_text=ranking.attributed_text,
        num_tokens=num_tokens,
        ablation=ablation,
        log_prob=full,
        sources=tuple(
            VerifiedSource(s.rank, s.source, s.score, drop, *shares)
            for s, drop, shares in zip(
                top, drops, zip(predicted, measured_shares, strict=True), strict=True
            )
        ),
        drop_together=drop_together,
        drop_all=drop_all,
        predicted_share_together=(
            sum(max(score, 0.0) for score in scores) / positive if positive > 0 else None
        ),
        measured_share_together=drop_together / drop_all if drop_all > 0 else None,
        rank_correlation=spearman(np.array(scores), np.array(drops)),
        cited=VerifiedCitations(
            sources=tuple(s.source.index for s in ranking.sources if s.cited),
            drop=full - without_cited,
            log_prob_alone=cited_alone,
            needed_share=(full - without_cited) / drop_all if drop_all > 0 else None,
            held_share=(cited_alone - none) / drop_all if drop_all > 0 else None,
        ),
    )


def _shares(values: list[float]) -> list[float | None]:
    """Each positive value as a share of their sum; None where there is none."""
    positive = [max(value, 0.0) for value in values]
    total = sum(positive)
    return [value / total if total > 0 else None for value in positive]
