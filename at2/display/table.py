"""A ranking as a table: styled in a notebook, aligned text in a terminal.

pandas, and matplotlib for the shading, are imported only when a table is asked for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from at2.display.terminal import TINY
from at2.printable import printable
from at2.ranking import best_sources

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

_STYLES: Any = [
    {"selector": "td", "props": "text-align: left; vertical-align: top;"},
    {"selector": "td.col1", "props": "white-space: pre-wrap; max-width: 60em;"},
]
_NO_FORMULAS = 'class="tex2jax_ignore mathjax_ignore"'
"""Notebooks then take `$5 and $6` for text."""
_DIGITS = 3


def score_table(
    scores: NDArray[np.float32], sources: Sequence[str], num_sources: int, cmap: str
) -> "Styler":
    """The `num_sources` best sources as a table of Score and Source, shaded by score.

    Args:
        scores: [num_sources]; sources whose score is NaN are left out.
        sources: their texts.
        num_sources: rows at most.
        cmap: a diverging colour map of matplotlib.

    Returns:
        A pandas `Styler`, which notebooks show as HTML. Its `str` is the table as plain text.
    """
    import pandas as pd
    from pandas.io.formats.style import Styler

    order = [int(i) for i in best_sources(scores) if not np.isnan(scores[i])]
    rows = [(scores[i], sources[i]) for i in order[:num_sources]]
    frame = pd.DataFrame(rows, columns=["Score", "Source"])

    class ScoreTable(Styler):
        """A Styler that prints."""

        def __repr__(self) -> str:
            return _as_text([float(score) for score, _ in rows], [source for _, source in rows])

    largest = max((abs(float(score)) for score, _ in rows), default=0.0) + TINY
    styled = ScoreTable(frame).background_gradient(
        cmap=cmap, subset=["Score"], vmin=-largest, vmax=largest
    )
    styled = styled.format(precision=_DIGITS, escape="html").set_table_styles(_STYLES)
    return styled.set_table_attributes(_NO_FORMULAS)


def _as_text(scores: list[float], sources: list[str]) -> str:
    """Rank, score and source in columns; each source on one line."""
    cells = [f"{score:.{_DIGITS}f}" for score in scores]
    width, rank = max(map(len, [*cells, "Score"])), len(str(max(len(cells) - 1, 0)))
    lines = [f"{'':{rank}}  {'Score':>{width}}  Source"]
    for number, (cell, source) in enumerate(zip(cells, sources, strict=True)):
        lines.append(f"{number:>{rank}}  {cell:>{width}}  {printable(' '.join(source.split()))}")
    return "\n".join(lines)
