"""What a run came to: examples and why some are missing, losses, held-out figures, costs of stages.

Workers write what they did beside each other in `summary/`; whoever ends puts everything that is
there together in `summary.json`. Knows files and numbers; nothing of models.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from at2.files import Place, files_in, read_whole, write_whole

FILE = "summary.json"
"""In the folder of results."""

_FOLDER = "summary"
_MOST_LINES = 5


@dataclass(frozen=True)
class Summary:
    """Everything that is known so far.

    Attributes:
        settings: of the run, as plain values.
        num_train, num_held_out: examples.
        bad_rows: rows of the data set that were passed over, as `place: reason`.
        skipped: examples that were passed over, likewise.
        training: what `trainer_jobs.stages` says of an estimator; None if there is none yet.
        evaluation: the folder of the evaluation; None if there is none yet.
        stages: the costs of each stage.
    """

    settings: Mapping[str, Any]
    num_train: int
    num_held_out: int
    bad_rows: Sequence[str]
    skipped: Sequence[str]
    training: Mapping[str, Any] | None = None
    evaluation: str | None = None
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "settings": dict(self.settings),
            "examples": {"train": self.num_train, "held_out": self.num_held_out},
            "bad_rows": list(self.bad_rows),
            "skipped": list(self.skipped),
            "training": None if self.training is None else dict(self.training),
            "evaluation": self.evaluation,
            "stages": {name: dict(costs) for name, costs in self.stages.items()},
        }

    def write(self, folder: Place) -> None:
        """Write `summary.json`.

        Raises:
            OSError: the folder cannot be written to.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_whole(folder / FILE, text.encode("utf-8", "backslashreplace"))

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"Examples: {self.num_train} to train on, {self.num_held_out} held out"]
        lines += _listed("Rows that cannot be used", self.bad_rows)
        lines += _listed("Examples passed over", self.skipped)
        if self.training is not None:
            lines += _training_lines(self.training, self.num_train)
        if self.evaluation is not None:
            lines.append(f"Evaluation: {self.evaluation}")
        lines += [f"{name}: {_costs(costs)}" for name, costs in self.stages.items()]
        return lines


def _listed(title: str, items: Sequence[str]) -> list[str]:
    if not items:
        return []
    lines = [f"{title}: {len(items)}", *(f"  {item}" for item in items[:_MOST_LINES])]
    if len(items) > _MOST_LINES:
        lines.append(f"  and {len(items) - _MOST_LINES} more, in {FILE}")
    return lines


def _training_lines(training: Mapping[str, Any], num_train: int) -> list[str]:
    without = num_train - training["examples"]
    lines = [
        f"Trained on {training['examples']} examples"
        + (f"; {without} gave no target" if without else ""),
        f"Loss: {training['first_loss']:.4g} at the first step, {training['last_loss']:.4g} at the "
        f"last of {training['steps']}",
    ]
    if "loss_curve" in training:
        lines.append(f"Loss curve: {training['loss_curve']}")
    metrics = training.get("metrics")
    if metrics is not None and metrics.get("lds") is not None:
        before = metrics["before_training"]
        lines.append(
            f"Held out: correlation {metrics['correlation']:.3f} (average attention "
            f"{before['correlation']:.3f}), LDS {metrics['lds']:.3f} ({before['lds']:.3f})"
        )
    return [*lines, f"Estimator: {training['estimator']}"]


def _costs(costs: Mapping[str, Any]) -> str:
    parts = [f"{costs['seconds']:.1f} s", f"{costs['peak_memory_mb']} MB at most"]
    if "peak_gpu_memory_mb" in costs:
        parts.append(f"{costs['peak_gpu_memory_mb']} MB on GPUs")
    if costs["workers"] > 1:
        parts[0] += f" of {costs['workers']} workers together"
    return ", ".join(parts)


def record_stage(folder: Place, stage: str, worker: tuple[int, int], costs: dict[str, Any]) -> None:
    """Add what a worker's part of a stage cost to what it cost before, when it was stopped.

    What a killed process had cost is not known.

    Args:
        worker: its index, and how many there are.

    Raises:
        OSError: the folder cannot be written to.
    """
    path = folder / _FOLDER / f"{stage}-{worker[0]}-of-{worker[1]}.json"
    before = _read(path)
    if before is not None:
        costs = {
            name: value + before.get(name, 0)
            if name == "seconds"
            else max(value, before.get(name, 0))
            for name, value in costs.items()
        }
    write_whole(path, (json.dumps(costs) + "\n").encode())


def stage_costs(folder: Place, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The costs of the stages that any worker has begun: seconds are added up.

    The number of workers is the most that there were at once.
    """
    by_stage: dict[str, dict[str, Any]] = {}
    for stage in stages:
        counts: Counter[str] = Counter()
        known = []
        for path in files_in(folder / _FOLDER, f"{stage}-*.json"):
            part = _read(path)
            if part is not None:
                known.append(part)
                counts[path.stem.rpartition("-")[2]] += 1
        if known:
            by_stage[stage] = {"workers": max(counts.values())}
            for name in known[0]:
                values = [part.get(name, 0) for part in known]
                total = sum(values) if name == "seconds" else max(values)
                by_stage[stage][name] = round(total, 1)
    return by_stage


def _read(path: Place) -> dict[str, Any] | None:
    """What a worker wrote; None if it did not, or somebody else changed it."""
    try:
        costs = json.loads(read_whole(path))
    except (OSError, ValueError):
        return None
    numbers = isinstance(costs, dict) and all(isinstance(v, int | float) for v in costs.values())
    return costs if numbers and {"seconds", "peak_memory_mb"} <= set(costs) else None
