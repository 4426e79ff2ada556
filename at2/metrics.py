"""How well scores agree with what ablations measure, and with what is known to be right.

Knows numbers only: nothing of models, tasks or methods.
"""

from collections.abc import Collection

import numpy as np
from numpy.typing import ArrayLike, NDArray

from at2.ranking import best_sources


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rank correlation of two series [values], with average ranks for ties.

    Returns:
        None where it is not defined: fewer than two values, all of a series equal, or one of them
        not a number.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not (_has_order(a) and _has_order(b)):
        return None
    # Slow to import, and not needed to attribute.
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def linear_datamodeling_score(
    scores: ArrayLike, masks: ArrayLike, log_probs: ArrayLike
) -> float | None:
    """LDS (Park et al. 2023, arXiv 2303.14186): Spearman's correlation, over random ablations,
    between what is measured and the sum of the scores of the sources that were kept.

    Args:
        scores: [sources].
        masks: [ablations, sources], True where a source was kept.
        log_probs: [ablations], of the span.

    Returns:
        None if the measured values are all equal, or one is not a number: there is nothing to
        predict. 0 if only the predictions are equal, or a score is not finite: a method gains
        nothing by abstaining.
    """
    measured = np.asarray(log_probs, dtype=np.float64)
    if not _has_order(measured):
        return None
    given = np.asarray(scores, dtype=np.float64)
    if not np.isfinite(given).all():
        return 0.0
    return spearman(np.asarray(masks, dtype=np.float64) @ given, measured) or 0.0


def _has_order(values: NDArray[np.float64]) -> bool:
    """Whether two of the values differ, and all are numbers (infinite ones are)."""
    return len(values) > 1 and not np.isnan(values).any() and bool((values != values[0]).any())


def precision_at(scores: ArrayLike, support: Collection[int], k: int) -> float:
    """The share of the `k` best sources that are known to support the span."""
    return _hits(scores, support, k) / k


def recall_at(scores: ArrayLike, support: Collection[int], k: int) -> float:
    """The share of the sources known to support the span, of which there are some, that are among
    the `k` best."""
    return _hits(scores, support, k) / len(set(support))


def _hits(scores: ArrayLike, support: Collection[int], k: int) -> int:
    return len(set(best_sources(scores, k).tolist()) & set(support))
