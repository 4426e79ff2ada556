"""How well an estimator predicts the ablations of examples that it was not trained on."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from at2.metrics import spearman
from at2.training.table import FeatureTable

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class HeldOut:
    """The mean over targets whose measured outputs are not all the same.

    Attributes:
        examples: examples with such targets.
        targets: how many there are.
        correlation: Pearson's, of predicted and measured outputs over the ablations: what training
            maximises. None if there are no such targets.
        lds: Spearman's, of the same: the linear datamodeling score with the ablations of training.
            (The order of log-probabilities is that of their logits.) A prediction that is the same
            for every ablation counts 0 in both.
    """

    examples: int
    targets: int
    correlation: float | None
    lds: float | None

    def to_dict(self) -> dict[str, float | None]:
        """The same as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.correlation is None or self.lds is None:
            return "no target varies"
        return (
            f"correlation={self.correlation:.4g}, LDS={self.lds:.4g} "
            f"({self.targets} targets of {self.examples} examples)"
        )


def measure(
    estimator: nn.Module, table: FeatureTable, examples: Sequence[int], device: torch.device
) -> HeldOut:
    """Judge an estimator on examples.

    Args:
        estimator: of features [..., features], on `device`.
        device: what computes.
    """
    owners = [(row, example) for example in examples for row in table.rows_of(example)]
    seen: set[int] = set()
    correlations: list[float] = []
    rank_correlations: list[float] = []
    for start in range(0, len(owners), _ROWS_AT_ONCE):
        some = owners[start : start + _ROWS_AT_ONCE]
        features, outputs = table.batch(np.array([row for row, _ in some], dtype=np.int64))
        with torch.no_grad():
            scores = estimator(features.to(device, torch.float32))[:, :, 0]
        predictions = scores.double().cpu().numpy()
        for (_, example), predicted, measured in zip(
            some, predictions, outputs.double().cpu().numpy(), strict=True
        ):
            if np.ptp(measured) > 0:
                seen.add(example)
                correlations.append(_pearson(predicted, measured))
                rank_correlations.append(spearman(predicted, measured) or 0.0)
    return HeldOut(len(seen), len(correlations), _mean(correlations), _mean(rank_correlations))


def _pearson(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Pearson's correlation of two series; 0 where it is not defined."""
    first, second = first - first.mean(), second - second.mean()
    spread = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / spread) if spread > 0 else 0.0


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
