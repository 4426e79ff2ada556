"""Attention weighed in several ways at once, and the token scores that come of it.

A weighing is one number for each layer and head (and power of attention, if there are several): an
estimator has one, plain average attention another. Layers hand in rows of attention, which are
weighed by all of them together, so that scores for every weighing cost one pass, or none where a
response was scored while it was written. Knows tensors and positions; nothing of sources.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from at2.errors import InputError
from at2.fingerprints import canonical
from at2.ranges import TokenRange

PLAIN = (1.0,)
"""Exponents of attention as it is, which is what the published package uses."""


def check_exponents(exponents: Sequence[float]) -> tuple[float, ...]:
    """The powers of attention that features are made of, as they are kept.

    Raises:
        InputError: there are none, or one is not a number above zero, or is there twice.
    """
    powers = tuple(float(exponent) for exponent in exponents)
    if not powers or len(set(powers)) < len(powers):
        raise InputError(f"exponents {powers} are none, or not all different", param="exponents")
    if not all(isfinite(power) and power > 0 for power in powers):
        raise InputError(f"exponents {powers} are not all above zero", param="exponents")
    return powers


@dataclass(frozen=True)
class Weighing:
    """One number for each power, layer and head, and what becomes of the sum.

    Attributes:
        weights: [exponents, layers, heads], or [layers, heads] where there is one exponent.
        exponents: the powers of attention that have weights.
        contrast: take off the mean of the query's rows, see `at2.model.attention`.
        bias: added to every score.
    """

    weights: Tensor
    exponents: Sequence[float] = PLAIN
    contrast: bool = False
    bias: float = 0.0

    @property
    def rows_key(self) -> bytes:
        """What the weighted rows depend on: neither `contrast` nor `bias`, which come later."""
        weights = self.weights.detach().float().cpu().contiguous()
        shape = [len(self.exponents), *weights.shape[-2:]]
        return canonical([shape, list(self.exponents)]).encode() + weights.numpy().tobytes()


class Weighings:
    """Several weighings of one model's attention, on the device where it is computed. Those that
    differ in contrast or bias only share their rows: `places` has each one's, `len` their number.

    Args:
        weighings: by name.
        num_layers, num_heads: of the model, as far as its attention can be captured.
        device: where sums are kept.

    Raises:
        InputError: there are none, or one does not fit the model.
    """

    def __init__(
        self,
        weighings: Mapping[str, Weighing],
        num_layers: int,
        num_heads: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if not weighings:
            raise InputError("there is nothing to weigh attention by")
        self.by_name = dict(weighings)
        self.num_layers = num_layers
        self.device = torch.device(device)
        keys = {name: weighing.rows_key for name, weighing in weighings.items()}
        distinct = {key: place for place, key in enumerate(dict.fromkeys(keys.values()))}
        self.places = {name: distinct[key] for name, key in keys.items()}
        powers: dict[float, Tensor] = {}
        for name, weighing in weighings.items():
            place = self.places[name]
            exponents = check_exponents(weighing.exponents)
            weights = weighing.weights.detach()
            weights = weights[None] if weights.dim() == 2 else weights
            if tuple(weights.shape) != (len(exponents), num_layers, num_heads):
                raise InputError(
                    f"weights have shape {tuple(weighing.weights.shape)}, but the model has "
                    f"{num_layers} layers × {num_heads} heads"
                    + (f", of {len(exponents)} powers" * (len(exponents) > 1))
                )
            for exponent, of_power in zip(exponents, weights, strict=True):
                empty = torch.zeros(num_layers, len(self), num_heads)
                powers.setdefault(exponent, empty)[:, place] = of_power
        self._by_power = [(power, list(matrix.to(self.device))) for power, matrix in powers.items()]

    def __len__(self) -> int:
        return len(set(self.places.values()))

    @property
    def contrasted(self) -> bool:
        """Whether any of them needs the query's rows."""
        return any(weighing.contrast for weighing in self.by_name.values())

    def weigh(self, layer: int, rows: Tensor) -> Tensor:
        """Weighted sums over the heads of one layer: [heads, ...] to [places, ...]."""
        flat = rows.flatten(1)  # [heads, rows × keys]
        total: Tensor | None = None
        for power, matrices in self._by_power:
            part = matrices[layer].to(flat) @ (flat if power == 1 else flat**power)
            total = part if total is None else total + part
        assert total is not None
        return total.view(len(self), *rows.shape[1:]).to(self.device)

    def add(self, layer: int, rows: Tensor, total: Tensor) -> None:
        """Add the weighted sums over heads and rows of one layer, in as few launches as can be.

        Args:
            rows: [heads, rows, keys].
            total: float32 [places, keys] on `device`; changed in place.
        """
        for power, matrices in self._by_power:
            powers = rows if power == 1 else rows**power
            summed = powers[:, 0] if powers.shape[1] == 1 else powers.sum(1)
            total.addmm_(matrices[layer], summed.to(total))


@dataclass(frozen=True)
class TokenScores:
    """Scores of some tokens for each token of a response, by several weighings.

    Attributes:
        weighings: by name.
        places: where each has its rows; several may share them.
        rows: float32 [places, targets, columns], without contrast and bias.
        first_column: the token that the first column belongs to.
        first_target: position of the first target in prompt and response.
        query: positions whose mean row a contrast takes off; empty if there are none.
        query_mean: float32 [places, columns], the mean of their rows; None if it was not taken.
    """

    weighings: Mapping[str, Weighing]
    places: Mapping[str, int]
    rows: NDArray[np.float32]
    first_column: int
    first_target: int
    query: TokenRange = (0, 0)
    query_mean: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.rows.nbytes + (0 if self.query_mean is None else self.query_mean.nbytes)

    def holds(self, name: str) -> bool:
        """Whether the scores of a weighing can be had."""
        weighing = self.weighings.get(name)
        if weighing is None:
            return False
        no_query = self.query[0] == self.query[1]
        return not weighing.contrast or no_query or self.query_mean is not None

    def of(self, name: str, target_range: TokenRange) -> NDArray[np.float32]:
        """Scores [targets, tokens] by one weighing, a column for every token from the first of all.

        Tokens that were not scored have zero, and those behind the last column are left out.

        Raises:
            InputError: there are no such scores, or a target is not among those scored.
        """
        first, last = (position - self.first_target for position in target_range)
        if not self.holds(name) or not 0 <= first <= last <= self.rows.shape[1]:
            raise InputError(f"there are no scores {name!r} of tokens {target_range}")
        place, weighing = self.places[name], self.weighings[name]
        rows = self.rows[place, first:last].copy()
        if weighing.contrast and self.query_mean is not None:
            before = max(0, self.query[0] - self.first_column)  # defined for tokens before it only
            rows[:, :before] -= self.query_mean[place, :before]
        if weighing.bias:
            rows += np.float32(weighing.bias)
        return np.pad(rows, ((0, 0), (self.first_column, 0)))
