"""Attention weighed in several ways at once, and the token scores that come of it.

A weighing is one number for each layer and head (and power of attention, if there are several): an
estimator has one, plain average attention another. Layers hand in rows of attention, which are
weighed by all of them together, so that scores for every weighing cost one pass, or none where a
response was scored while it was written. Knows tensors and positions; nothing of sources.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from at2.errors import InputError, UnsupportedModelError
from at2.model.attention import (
    PLAIN,
    AttentionShape,
    TokenRange,
    attention_shape,
    check_exponents,
)
from at2.model.capture import DEFAULT_ROW_BYTES, AttentionCall, capture_pass, input_device


@dataclass(frozen=True)
class Weighing:
    """One number for each power, layer and head.

    Attributes:
        weights: [exponents, layers, heads], or [layers, heads] where there is one exponent.
        exponents: the powers of attention that have weights.
    """

    weights: Tensor
    exponents: Sequence[float] = PLAIN


def average_weighing(shape: AttentionShape) -> Weighing:
    """Every head of every layer alike, adding up to one."""
    count = shape.num_layers * shape.num_heads
    return Weighing(torch.full((shape.num_layers, shape.num_heads), 1 / count))


class Weighings:
    """Several weighings of one model's attention, on the device where it is computed.

    Args:
        weighings: by name.
        shape: the attention of the model.
        device: where rows of attention will be.

    Raises:
        InputError: there are none, or one does not fit the model.
    """

    def __init__(
        self,
        weighings: Mapping[str, Weighing],
        shape: AttentionShape,
        device: torch.device | str = "cpu",
    ) -> None:
        if not weighings:
            raise InputError("there is nothing to weigh attention by")
        self.names = tuple(weighings)
        self.shape = shape
        self.device = torch.device(device)
        powers: dict[float, Tensor] = {}
        for place, (name, weighing) in enumerate(weighings.items()):
            exponents = check_exponents(weighing.exponents)
            weights = weighing.weights.detach()
            weights = weights[None] if weights.dim() == 2 else weights
            if tuple(weights.shape) != (len(exponents), shape.num_layers, shape.num_heads):
                raise InputError(
                    f"weights {name!r} have shape {tuple(weighing.weights.shape)}, but the model "
                    f"has {shape.num_layers} layers × {shape.num_heads} heads"
                    + (f", of {len(exponents)} powers" * (len(exponents) > 1))
                )
            for exponent, of_power in zip(exponents, weights, strict=True):
                if exponent not in powers:
                    powers[exponent] = torch.zeros(
                        shape.num_layers, len(weighings), shape.num_heads
                    )
                powers[exponent][:, place] = of_power
        self._by_power = [(power, matrix.to(device)) for power, matrix in powers.items()]

    def __len__(self) -> int:
        return len(self.names)

    def weigh(self, layer: int, rows: Tensor) -> Tensor:
        """Weighted sums over the heads of one layer: [heads, ...] to [weighings, ...], float32."""
        flat = rows.flatten(1)  # [heads, rows × keys]
        total: Tensor | None = None
        for power, matrix in self._by_power:
            part = matrix[layer].to(flat) @ (flat if power == 1 else flat**power)
            total = part if total is None else total + part
        assert total is not None
        return total.to(torch.float32).view(len(self), *rows.shape[1:])


@dataclass(frozen=True)
class TokenScores:
    """Scores of the tokens of a response for some tokens before it, of several weighings.

    Attributes:
        names: of the weighings.
        rows: float32 [weighings, targets, columns].
        first_column: the token that the first column belongs to.
        first_target: position of the first target in prompt and response.
        baseline: float32 [weighings, columns], the mean of the rows of some other positions; None
            if there was none to take.
    """

    names: tuple[str, ...]
    rows: NDArray[np.float32]
    first_column: int
    first_target: int
    baseline: NDArray[np.float32] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.rows.nbytes + (0 if self.baseline is None else self.baseline.nbytes)

    def of(self, name: str, target_range: TokenRange) -> NDArray[np.float32]:
        """Scores [targets, tokens] of one weighing, the columns from the first token of all on.

        Tokens that have no column score zero, those after the last column are left out.

        Raises:
            InputError: there is no such weighing, or a target has no row.
        """
        start, end = (position - self.first_target for position in target_range)
        if name not in self.names or not 0 <= start <= end <= self.rows.shape[1]:
            raise InputError(f"there are no scores {name!r} of tokens {target_range}")
        rows = self.rows[self.names.index(name), start:end]
        return np.pad(rows, ((0, 0), (self.first_column, 0)))

    def baseline_of(self, name: str) -> NDArray[np.float32] | None:
        """The mean row [tokens] of one weighing, columns as in `of`; None if there is none."""
        if self.baseline is None:
            return None
        return np.pad(self.baseline[self.names.index(name)], (self.first_column, 0))


def weighed_scores(
    model: Any,
    input_ids: Tensor | Sequence[int],
    target_range: TokenRange,
    weighings: Weighings,
    *,
    columns: TokenRange | None = None,
    baseline: TokenRange | None = None,
    row_bytes: int = DEFAULT_ROW_BYTES,
) -> TokenScores:
    """The scores of `at2.model.attention.token_scores` for several weighings, by one pass.

    Args:
        model: a transformers decoder.
        input_ids: [tokens]; those after the target are not used.
        target_range: which tokens are targets; the first token of all cannot be one.
        weighings: what to weigh by.
        columns: which tokens are scored; by default all before the last target.
        baseline: positions whose rows are averaged beside, all before the last target.
        row_bytes: memory for one block of one layer's attention rows.

    Raises:
        InputError: a range does not fit.
        UnsupportedModelError: the model's attention cannot be captured.
    """
    ids = torch.as_tensor(input_ids, dtype=torch.long)
    start, end = target_range
    if not 1 <= start <= end <= len(ids):
        raise InputError(f"target range {target_range} is not within tokens 1 to {len(ids)}")
    low, high = (0, max(end - 1, 0)) if columns is None else columns
    shape = attention_shape(model)
    device = input_device(model)
    rows = torch.zeros(len(weighings), end - start, high - low, device=device)
    means = None if baseline is None else torch.zeros(len(weighings), high - low, device=device)

    def on_layer(layer: int, call: AttentionCall) -> None:
        for first, last in call.blocks(start - 1, end - 1, row_bytes):
            block = call.rows(first, last)[0, :, :, low:high]  # [heads, rows, columns]
            weighed = weighings.weigh(layer, block)
            rows[:, first - start + 1 : last - start + 1, : weighed.shape[2]] += weighed.to(rows)
        if means is None or baseline is None:
            return
        for first, last in call.blocks(*baseline, row_bytes):
            block = call.rows(first, last)[0, :, :, low:high]
            weighed = weighings.weigh(layer, block).sum(1)  # [weighings, columns]
            means[:, : weighed.shape[1]] += weighed.to(means) / (baseline[1] - baseline[0])

    if start < end:
        report = capture_pass(model, ids[: end - 1], on_layer, stop_after=shape.num_layers)
        if report.num_layers != shape.num_layers:
            raise UnsupportedModelError(
                f"{type(model).__name__} ran {report.num_layers} attention layers of "
                f"{shape.num_layers}: was its attention implementation changed meanwhile?"
            )
    return TokenScores(
        weighings.names,
        rows.cpu().numpy(),
        low,
        start,
        None if means is None else means.cpu().numpy(),
    )
