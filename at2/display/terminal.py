"""Attributions in a terminal, or wherever else its colours are understood (notebooks, for one).

Colours are backgrounds with a fitting foreground, so they read on dark and on light ones. Where the
environment variable NO_COLOR is set (no-color.org), brackets take their place. Whether the output
is a terminal is not asked: a notebook is none and shows colours all the same.
"""

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from at2.printable import printable
from at2.ranges import CharRange
from at2.text.sentences import split_text

if TYPE_CHECKING:
    from at2.tasks import AttributionTask

TINY = 1e-6
"""Keeps the scale of a table or shading finite when every score is zero."""

_CYAN, _RESET = "\033[36m", "\033[0m"
_BLACK, _WHITE = "38;2;0;0;0", "38;2;255;255;255"
_SELECTED = f"\033[48;2;255;255;0m\033[{_BLACK}m"
_FAINTEST = 0.02
"""Shares of the full colour below this are not shaded."""
_DARK = 0.6
"""From this share on a background is so dark that white reads better on it."""


def with_indices(text: str, split_by: str = "sentence") -> str:
    """The text with the characters `(start, end)` of each part before it, these in cyan.

    Args:
        split_by: "sentence", "word" or "paragraph".

    Raises:
        InputError: `split_by` is something else.
    """
    before, after = ("", "") if _plain() else (_CYAN, _RESET)
    _, separators, ranges = split_text(text, split_by)
    printed = printable(text)
    return "".join(
        f"{printed[start - len(separator) : start]}{before}[({start}, {end})]{after}"
        f"{printed[start:end]}"
        for separator, (start, end) in zip(separators, ranges, strict=True)
    )


def highlight(
    task: "AttributionTask",
    span: tuple[int, int],
    scores: NDArray[np.float32],
    max_score: float | None = None,
) -> str:
    """Prompt and response with each source shaded by its score, and the span in yellow.

    Blue is positive, red is negative. Without colours a source reads `[+73%: …]` in percent of the
    full colour, and the span `[[…]]`.

    Args:
        span: tokens relative to the target.
        scores: [num_sources]; NaN is no colour.
        max_score: the score of full colour; by default the largest there is.
    """
    scores = np.nan_to_num(scores, nan=0.0)
    scale = max_score if max_score is not None else float(np.abs(scores).max(initial=0)) + TINY
    shares = np.clip(scores / scale, -1, 1)
    first = task.target_token_range[0]
    styles: dict[int, tuple[tuple[int, int], tuple[str, str]]] = {}  # by first token
    for tokens, share in zip(task.source_token_ranges, shares, strict=True):
        if abs(share) >= _FAINTEST:
            styles[tokens[0]] = (tokens, _shade(float(share)))
    selected = ("[[", "]]") if _plain() else (_SELECTED, _RESET)
    styles[first + span[0]] = ((first + span[0], first + span[1]), selected)
    return _styled(task.text, task.token_char_ranges, list(styles.values()))


def _styled(
    text: str,
    token_ranges: list[CharRange],
    styles: list[tuple[tuple[int, int], tuple[str, str]]],
) -> str:
    """The text with something before and after each of some disjoint ranges of its tokens."""
    printed = printable(text)
    pieces, written = [], 0
    for (first, last), (before, after) in sorted(styles):
        if first == last:
            continue
        start, end = max(token_ranges[first][0], written), token_ranges[last - 1][1]
        start = end - len(text[start:end].lstrip())
        if start < end:  # else another range has shown the character that both share
            pieces += [printed[written:start], before, printed[start:end], after]
            written = end
    return "".join([*pieces, printed[written:]])


def _shade(share: float) -> tuple[str, str]:
    """What comes before and after a source whose share of the full colour is from -1 to 1."""
    if _plain():
        return f"[{share:+.0%}: ", "]"
    fade = 255 - int(255 * abs(share))
    background = f"{fade};{fade};255" if share > 0 else f"255;{fade};{fade}"
    foreground = _WHITE if share > _DARK else _BLACK
    return f"\033[48;2;{background}m\033[{foreground}m", _RESET


def _plain() -> bool:
    return bool(os.environ.get("NO_COLOR"))
