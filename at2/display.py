"""Attributions for people to look at: a styled table in a notebook, colours in a terminal.

Knows nothing of how scores come about. pandas is imported only when a table is asked for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from at2.tasks import AttributionTask

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_RESET = "\033[0m"
_SELECTED = "\033[38;2;255;255;0m"
_TINY = 1e-6
"""Keeps the scale of a table or shading finite when every score is zero."""


def score_table(
    scores: NDArray[np.float32], sources: Sequence[str], num_sources: int, cmap: str
) -> "Styler":
    """The `num_sources` best sources as a table of Score and Source, shaded by score."""
    import pandas as pd

    order = np.argsort(-scores, kind="stable")[:num_sources]
    frame = pd.DataFrame(
        [(scores[i], sources[i]) for i in order],
        columns=["Score", "Source"],
    )
    largest = float(frame["Score"].abs().max()) + _TINY if len(frame) else _TINY
    styled = frame.style.background_gradient(
        cmap=cmap, subset=["Score"], vmin=-largest, vmax=largest
    )
    return styled.format(precision=3)


def highlight(
    task: AttributionTask,
    span: tuple[int, int],
    scores: NDArray[np.float32],
    max_score: float | None = None,
) -> str:
    """Prompt and response with each source shaded by its score and the span in yellow.

    Args:
        span: tokens relative to the target.
        scores: [num_sources].
        max_score: the score of full colour; by default the largest there is.
    """
    scale = max_score if max_score is not None else float(np.abs(scores).max(initial=0)) + _TINY
    shares = np.clip(scores / scale, -1, 1)
    target_start = task.target_token_range[0]
    colours = [""] * len(task.token_ids)
    for (start, end), share in zip(task.source_token_ranges, shares, strict=True):
        fade = 255 - int(255 * abs(float(share)))
        shade = f"{fade};{fade};255" if share > 0 else f"255;{fade};{fade}"
        colours[start:end] = [f"\033[38;2;{shade}m"] * (end - start)
    first, last = target_start + span[0], target_start + span[1]
    colours[first:last] = [_SELECTED] * (last - first)
    pieces = []
    text, written = task.text, 0
    for colour, (_, end) in zip(colours, task.token_char_ranges, strict=True):
        piece = text[written:end]  # tokens that share one character show it once
        written = max(written, end)
        pieces.append(f"{colour}{piece}{_RESET}" if colour and piece else piece)
    return "".join(pieces) + text[written:]
