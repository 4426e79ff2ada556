"""The order of sources by score: what every list, table and metric goes by."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def best_sources(scores: ArrayLike, top_k: int | None = None) -> NDArray[np.intp]:
    """Sources by score, best first, ties in the order of the sources.

    Args:
        scores: [sources]; a score that is not a number comes last.
        top_k: only so many; all by default.

    Returns:
        Their numbers, [sources] or [top_k], fewer if there are fewer.
    """
    order: NDArray[np.intp] = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    return order[:top_k]
