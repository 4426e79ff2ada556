"""Which sources of a span count: the one rule by which a source is cited.

    cited(s)  ⇔  score(s) > 0  and  score(s) ≥ min_share · Σ max(score, 0) over all sources

A score has no unit, so it is read as a share of what speaks for the span. Whatever the scores are,
no more than 1 / min_share sources are cited, and none where no source stands out: a response that
owes a little to everything is not shown as if it rested on its best source. Finer sources have
smaller shares, as their scores are parts of those of coarser ones.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from at2.errors import InputError

DEFAULT_MIN_SHARE = 0.2
"""At most five sources."""


def cited(scores: ArrayLike, min_share: float = DEFAULT_MIN_SHARE) -> NDArray[np.bool_]:
    """Which sources are cited.

    Args:
        scores: [..., sources], of all sources of a span.
        min_share: the least share of the sum of positive scores, from 0 (all that are positive)
            to 1.

    Returns:
        [..., sources].

    Raises:
        InputError: `min_share` is not between 0 and 1.
    """
    if not 0 <= min_share <= 1:
        raise InputError(f"min_share is {min_share}, not between 0 and 1", param="min_share")
    given: NDArray[Any] = np.asarray(scores, dtype=np.float64)
    positive = np.maximum(given, 0.0)
    least = min_share * positive.sum(axis=-1, keepdims=True)
    counts: NDArray[np.bool_] = (given > 0) & (given >= least)
    return counts
