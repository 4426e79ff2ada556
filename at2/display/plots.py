"""Scores as pictures: response tokens × sources, and statements × sources.

Dark is high and white is nothing, so that they read in black and white; a score below zero has a
hatch. matplotlib is imported only when a picture is asked for; none is shown, and none is kept in
its list of open figures.
"""

from collections.abc import Sequence
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from at2.display.shorten import shortened
from at2.errors import InputError
from at2.ranking import best_sources

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SOURCE_SHOWN, _STATEMENT_SHOWN, _TOKEN_SHOWN = 64, 60, 14
_LINE = 26
"""Characters of a line of a statement above its column."""
_TOKENS_PER_PANEL = 40
_COLUMN, _WIDE_COLUMN, _ROW, _LABELS = 0.27, 1.7, 0.34, 4.6
"""Inches: of a token's column, a statement's column, a source's row, and the names of sources."""
_CMAP = "Blues"
_DARK = 0.6
"""From this share of the largest score on, white reads better than black."""
_FAINTEST = 0.02
"""Shares of the largest score below this are not hatched."""
_DPI = 100
_SIZE = 8
_GREY = "0.75"
_BREAKS = str.maketrans({"\n": "⏎", "\r": "⏎", "\t": "⇥", " ": "·"})


def token_heatmap(
    scores: NDArray[np.float32], tokens: Sequence[str], sources: Sequence[str], num_sources: int
) -> "Figure":
    """Tokens of a response in columns, the sources that matter most in rows, in their order.

    Args:
        scores: [tokens, sources].
        tokens, sources: their texts.
        num_sources: rows at most: those with the largest mean score of any sign.

    Returns:
        A figure of one panel for every 40 tokens, one below the other.

    Raises:
        InputError: there is no token or no source.
    """
    _check(scores)
    chosen = _strongest(np.abs(scores).mean(axis=0), num_sources)
    shown = np.nan_to_num(scores[:, chosen].T)
    starts = range(0, len(tokens), _TOKENS_PER_PANEL)
    columns = min(len(tokens), _TOKENS_PER_PANEL)
    height = len(starts) * (_ROW * len(chosen) + 1.1) + 0.5
    figure = _figure(_LABELS + max(_COLUMN * columns, 2.5) + 0.8, height)
    axes = figure.subplots(len(starts), 1, squeeze=False)[:, 0]
    largest = _largest(shown)
    for axis, start in zip(axes, starts, strict=True):
        panel = np.full((len(chosen), columns), np.nan)
        part = shown[:, start : start + columns]
        panel[:, : part.shape[1]] = part
        image = _draw(axis, panel, largest)
        axis.set_yticks(range(len(chosen)), _names(chosen, sources), fontsize=_SIZE)
        names = [_token_name(token) for token in tokens[start : start + columns]]
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=_SIZE, family="monospace")
    _colour_bar(figure, image, list(axes))
    return figure


def statement_heatmap(
    scores: NDArray[np.float32], statements: Sequence[str], sources: Sequence[str], num_sources: int
) -> "Figure":
    """Spans of a response in columns, the sources that matter most in rows, in their order; each
    cell with its score.

    Args:
        scores: [spans, sources].
        statements, sources: their texts.
        num_sources: rows at most: those with the largest score of any span, of any sign.

    Raises:
        InputError: there is no span or no source.
    """
    _check(scores)
    chosen = _strongest(np.abs(scores).max(axis=0), num_sources)
    shown = np.nan_to_num(scores[:, chosen].T)
    width = _LABELS + _WIDE_COLUMN * len(statements) + 0.9
    figure = _figure(width, _ROW * len(chosen) + 1.6)
    axis = figure.subplots()
    largest = _largest(shown)
    image = _draw(axis, shown, largest)
    axis.set_yticks(range(len(chosen)), _names(chosen, sources), fontsize=_SIZE)
    names = [
        "\n".join(wrap(f"{number}. {_plain(shortened(text, _STATEMENT_SHOWN))}", _LINE))
        for number, text in enumerate(statements, start=1)
    ]
    axis.xaxis.tick_top()
    axis.set_xticks(range(len(names)), names, fontsize=_SIZE)
    for (row, column), score in np.ndenumerate(shown):
        colour = "white" if score > _DARK * largest else "black"
        text = f"{score:.3f}".replace("-", "−")
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1} if score < 0 else None
        axis.text(
            column, row, text, ha="center", va="center", color=colour, fontsize=_SIZE, bbox=box
        )
    _colour_bar(figure, image, [axis])
    return figure


def _check(scores: NDArray[np.float32]) -> None:
    if 0 in scores.shape:
        raise InputError(f"nothing to plot: {scores.shape[0]} columns × {scores.shape[1]} sources")


def _strongest(strength: NDArray[Any], count: int) -> list[int]:
    """The places of the largest values, in order of place."""
    return sorted(best_sources(np.nan_to_num(strength), count).tolist())


def _largest(scores: NDArray[Any]) -> float:
    return float(np.abs(scores).max(initial=0)) or 1.0


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that a notebook shows, whether or not pyplot was imported there."""

        def _repr_png_(self) -> bytes:
            content = BytesIO()
            self.savefig(content, format="png", dpi=_DPI)
            return content.getvalue()

    return Shown(figsize=(width, height), layout="constrained")


def _draw(axis: "Axes", scores: NDArray[Any], largest: float) -> Any:
    """Shade cells by the score's size, and hatch those below zero."""
    from matplotlib.patches import Rectangle

    image = axis.imshow(np.abs(scores), cmap=_CMAP, vmin=0, vmax=largest, aspect="auto")
    for (row, column), score in np.ndenumerate(scores):
        if score < -_FAINTEST * largest:
            corner = (column - 0.5, row - 0.5)
            axis.add_patch(
                Rectangle(corner, 1, 1, fill=False, hatch="////", edgecolor="0.35", linewidth=0)
            )
    rows, columns = scores.shape
    axis.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axis.grid(which="minor", color=_GREY, linewidth=0.4)
    axis.tick_params(which="both", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image


def _colour_bar(figure: "Figure", image: Any, axes: list["Axes"]) -> None:
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, aspect=25)
    bar.set_label("score (hatched: below zero)", fontsize=_SIZE)
    bar.ax.tick_params(labelsize=_SIZE)
    bar.outline.set_visible(False)


def _names(chosen: Sequence[int], sources: Sequence[str]) -> list[str]:
    return [_plain(f"{shortened(sources[i], _SOURCE_SHOWN)}  [{i}]") for i in chosen]


def _token_name(token: str) -> str:
    name = token.translate(_BREAKS)
    return _plain(name if len(name) <= _TOKEN_SHOWN else name[: _TOKEN_SHOWN - 1] + "…")


def _plain(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
