"""Muon for the matrices of the layers, AdamW for everything else.

Muon (Keller Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum
of a matrix by its nearest semi-orthogonal matrix; it needs about half the tokens AdamW does here.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


def orthogonalize(stack: Tensor) -> Tensor:
    """Approximately U Vᵀ for each matrix U S Vᵀ of [matrices, rows, columns], in bfloat16."""
    a, b, c = _NEWTON_SCHULZ
    x = stack.to(torch.bfloat16)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-1, -2)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.transpose(-1, -2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.transpose(-1, -2) if tall else x
    return result.to(stack.dtype)


class Muon:
    """Momentum, Nesterov's step, orthogonalised; matrices of one shape are handled in one stack."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95) -> None:
        self._momentum = momentum
        self._groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            self._groups[parameter.shape].append(parameter)
        self._buffers = {
            shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update of every matrix with learning rate `lr`."""
        for shape, group in self._groups.items():
            grads = torch.stack([p.grad for p in group if p.grad is not None])
            buffer = self._buffers[shape]
            buffer.lerp_(grads, 1 - self._momentum)
            update = orthogonalize(grads.lerp(buffer, self._momentum))
            scale = max(1.0, shape[0] / shape[1]) ** 0.5
            for parameter, change in zip(group, update, strict=True):
                parameter.add_(change, alpha=-lr * scale)

    def state_dict(self) -> dict[str, Any]:
        """Momentum buffers by shape."""
        return {"x".join(map(str, shape)): buffer for shape, buffer in self._buffers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for shape in self._buffers:
            self._buffers[shape] = state["x".join(map(str, shape))]
