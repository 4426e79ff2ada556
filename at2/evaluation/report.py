"""An evaluation for people: Markdown tables, a figure, and files of both beside the JSON.

matplotlib is imported only when a figure is asked for (`pip install 'at2-service[display]'`).
"""

from importlib.util import find_spec
from io import BytesIO
from typing import TYPE_CHECKING

from at2.evaluation.summary import Estimate, Evaluation
from at2.files import Place, place_of, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FAMILIES = {
    "lds": "Linear datamodeling score",
    "drop": "Drop in log-probability without the top k sources, nats per token",
    "precision": "Precision of the top k sources",
    "recall": "Recall of the known supporting sources",
}


def markdown(evaluation: Evaluation) -> str:
    """Tables of every metric with its interval, and of the reference's lead over each method."""
    settings = evaluation.settings
    lines = [
        f"{evaluation.num_sentences} sentences of {evaluation.num_examples} responses; "
        f"{settings.num_masks} random ablations per response, each source kept with probability "
        f"{settings.keep_probability:g}. Brackets: 95 % bootstrap intervals over responses.",
        "",
        "| method | forward passes | backward passes |",
        "|---|---|---|",
    ]
    for method in evaluation.methods:
        passes = evaluation.passes[method]
        lines.append(f"| {method} | {passes.forward:.1f} | {passes.backward:.1f} |")
    for title, metrics in _by_family(evaluation):
        header = [
            "",
            "| method | " + " | ".join(_column(metric) for metric in metrics) + " |",
            "|---|" + "---|" * len(metrics),
        ]
        lines += ["", f"**{title}**", *header]
        for method, of_method in evaluation.values.items():
            cells = " | ".join(_cell(of_method.get(metric)) for metric in metrics)
            lines.append(f"| {method} | {cells} |")
        if evaluation.differences:
            lines += ["", f"{evaluation.reference} minus:", *header]
        for method, of_method in evaluation.differences.items():
            cells = " | ".join(_cell(of_method.get(metric), sign="+") for metric in metrics)
            lines.append(f"| {method} | {cells} |")
    return "\n".join(lines) + "\n"


def _by_family(evaluation: Evaluation) -> list[tuple[str, list[str]]]:
    families = []
    for name, title in _FAMILIES.items():
        metrics = [m for m in evaluation.metrics if m.split("/")[0].split("@")[0] == name]
        if metrics:
            families.append((title, metrics))
    return families


def _column(metric: str) -> str:
    """`drop@3/mask` as `k = 3, mask`."""
    name, _, ablation = metric.partition("/")
    _, _, k = name.partition("@")
    return ", ".join(part for part in (f"k = {k}" if k else "", ablation) if part)


def _cell(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return "–"
    cell = f"{estimate.mean:{sign}.3f}"
    if estimate.low is not None and estimate.high is not None:
        cell += f" [{estimate.low:{sign}.3f}, {estimate.high:{sign}.3f}]"
    return cell


def plot(evaluation: Evaluation) -> "Figure":
    """One panel per kind of metric: every method's mean with its interval."""
    from matplotlib.figure import Figure

    families = _by_family(evaluation)
    methods = evaluation.methods
    height = 1 + 0.45 * len(methods)
    figure = Figure(figsize=(9, max(1, len(families)) * height), layout="constrained")
    all_axes = figure.subplots(max(1, len(families)), 1, squeeze=False)[:, 0]
    for axes, (title, metrics) in zip(all_axes, families, strict=False):
        _panel(axes, evaluation, metrics)
        axes.set_title(title, loc="left", fontsize="medium")
    return figure


def _panel(axes: "Axes", evaluation: Evaluation, metrics: list[str]) -> None:
    methods = evaluation.methods
    for number, metric in enumerate(metrics):
        # The metrics of one method stand under each other, inside its row.
        shift = 0.6 * ((number + 0.5) / len(metrics) - 0.5)
        rows, means, below, above = [], [], [], []
        for row, method in enumerate(methods):
            estimate = evaluation.values[method].get(metric)
            if estimate is None:
                continue
            rows.append(row + shift)
            means.append(estimate.mean)
            below.append(0.0 if estimate.low is None else max(0.0, estimate.mean - estimate.low))
            above.append(0.0 if estimate.high is None else max(0.0, estimate.high - estimate.mean))
        axes.errorbar(
            means, rows, xerr=[below, above], fmt="o", markersize=4, label=_column(metric)
        )
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)  # the first method on top
    axes.axvline(0, color="0.8", linewidth=1, zorder=0)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def save(evaluation: Evaluation, folder: str | Place) -> None:
    """Write `evaluation.json`, `evaluation.md` and, with matplotlib, `evaluation.png` to a folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder = place_of(folder)
    write_whole(folder / "evaluation.json", evaluation.to_json().encode("utf-8"))
    write_whole(folder / "evaluation.md", markdown(evaluation).encode("utf-8"))
    if find_spec("matplotlib") is not None:
        picture = BytesIO()
        plot(evaluation).savefig(picture, format="png", dpi=150)
        write_whole(folder / "evaluation.png", picture.getvalue())
