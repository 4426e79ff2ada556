"""The loss curve as a picture. Needs matplotlib, which is imported when one is drawn."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np

from at2.files import Place, write_whole

_SMOOTHED_STEPS = 50


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def plot_losses(
    losses: Sequence[float], held_out: Mapping[str, Mapping[str, Any]], path: Place
) -> None:
    """Draw the loss of each step, and how held-out examples fared, to a PNG file.

    Args:
        losses: one per step, the negative correlation of predictions and outputs.
        held_out: by steps taken, figures with `correlation` and `lds`, which may be None.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(1, len(losses) + 1), losses, color="0.8", linewidth=0.8)
    width = min(_SMOOTHED_STEPS, len(losses))
    smooth = np.convolve(losses, np.full(width, 1 / width), mode="valid")
    axes.plot(range(width, len(losses) + 1), smooth, label=f"loss, mean of {width} steps")
    for name, label in (("correlation", "held out: -correlation"), ("lds", "held out: -LDS")):
        points = [
            (int(steps), -measured[name])
            for steps, measured in held_out.items()
            if measured.get(name) is not None
        ]
        if points:
            axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=3, label=label)
    axes.set_xlabel("steps")
    axes.set_ylabel("lower is better")
    axes.legend(fontsize="small")
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_whole(path, content.getvalue())
