"""Masks of local attention (sliding windows, chunks) that are never whole in memory.

At 32,768 tokens the mask of one windowed layer has 10⁹ entries, of which a row sees only its
window. A `LocalMask` stands for it while a forward pass runs: it looks like a tensor of that shape
and gives blocks of rows. Any other use of it raises `MaskTouchedError`, so that a model that does
something to its masks can be found out beforehand.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from at2.errors import ModelError

_BLOCK_ROWS = 1024
"""Query rows at a time, at most: a block has so many rows and sees one window more of keys."""


class MaskTouchedError(ModelError):
    """A model computed with a mask that only attention should see."""


class LocalMask(torch.Tensor):
    """The mask [1, 1, tokens, tokens] of attention to a window before and at each token.

    Args:
        build: makes the boolean mask [1, 1, rows, keys] of query rows `[start, end)` and keys
            `[low, end)`, from `start`, `end` and `low`.
        window: a row sees at most so many keys, the last of them its own token.
        length: tokens.
        device: where the mask would be.
    """

    _build: Callable[[int, int, int], Tensor]
    _window: int

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(
        cls,
        build: Callable[[int, int, int], Tensor],
        window: int,
        length: int,
        device: torch.device,
    ) -> "LocalMask":
        """See the class."""
        mask: LocalMask = torch.Tensor._make_wrapper_subclass(
            cls, (1, 1, length, length), dtype=torch.bool, device=device
        )
        mask._build = build
        mask._window = window
        return mask

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Every operation ends here.

        Raises:
            MaskTouchedError: always.
        """
        raise MaskTouchedError(f"the model computes with its attention mask ({func})")

    def __repr__(  # type: ignore[override]  # a tensor's own would compute with it
        self, *, tensor_contents: Any = None
    ) -> str:
        return f"LocalMask(window={self._window}, tokens={self.shape[-1]})"

    def first_key(self, row: int) -> int:
        """The first key that a row or any after it can see."""
        return max(0, row - self._window + 1)

    def rows(self, start: int, end: int) -> Tensor:
        """Boolean [1, 1, end - start, end - first_key(start)], True where a row sees a key."""
        return self._build(start, end, self.first_key(start))

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Cut all rows into blocks `(start, end)`."""
        length, step = self.shape[-1], min(self._window, _BLOCK_ROWS)
        for start in range(0, length, step):
            yield start, min(start + step, length)

    def stays_within_window(self) -> bool:
        """Whether no key outside its window is visible to a few rows that stand for all."""
        length = self.shape[-1]
        for row in {0, min(self._window, length - 1), length // 2, length - 1}:
            seen = self._build(row, row + 1, 0).flatten()  # keys up to the row
            if seen[: self.first_key(row)].any():
                return False
        return True
