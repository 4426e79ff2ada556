"""Features and outputs of all examples, row by row, in memory or left on disk.

A row is one target of one example. Rows that fit are put together on the device that trains;
otherwise they stay in their files, mapped into memory, and only those of a batch are read.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

_SHARE_OF_MEMORY = 0.5


class FeatureTable:
    """Rows of features and outputs, in the order of examples.

    Args:
        parts: features [rows, masks, features] and outputs [rows, masks] of consecutive examples.
        counts: rows of each example.

    Attributes:
        counts: rows of each example.
        starts: the first row of each.
    """

    def __init__(self, parts: Sequence[tuple[Tensor, Tensor]], counts: Sequence[int]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(len(outputs) for _, outputs in parts))
        self.counts = tuple(counts)
        self.starts = tuple(accumulate(counts, initial=0))[:-1]

    @classmethod
    def from_files(cls, files: Sequence[Path]) -> "FeatureTable":
        """The shards of a training folder, in order, mapped and not read."""
        parts, counts = [], []
        for path in files:
            with safe_open(path, framework="pt") as file:
                parts.append((file.get_tensor("features"), file.get_tensor("outputs")))
                counts += file.get_tensor("targets").tolist()
        return cls(parts, counts)

    @property
    def num_examples(self) -> int:
        """Examples, with rows or without."""
        return len(self.counts)

    @property
    def num_bytes(self) -> int:
        """Size of all rows."""
        return sum(features.nbytes + outputs.nbytes for features, outputs in self._parts)

    def rows_of(self, example: int) -> range:
        """The rows of an example."""
        start = self.starts[example]
        return range(start, start + self.counts[example])

    def example(self, example: int) -> tuple[Tensor, Tensor]:
        """Features [targets, masks, features] and outputs [targets, masks] of an example."""
        rows = self.rows_of(example)
        for (features, outputs), end in zip(self._parts, self._ends, strict=True):
            if rows.stop <= end:
                start = rows.start - (end - len(outputs))
                return features[start : start + len(rows)], outputs[start : start + len(rows)]
        raise IndexError(example)

    def gathered(self, device: torch.device, limit: int | None = None) -> "FeatureTable":
        """The same rows together on a device, or as they are where they take too much memory.

        Args:
            limit: bytes that they may take; by default half of what is free.
        """
        if limit is None:
            limit = int(free_memory(device) * _SHARE_OF_MEMORY)
        if self.num_bytes > limit or not self._parts:
            return self
        features, outputs = zip(*self._parts, strict=True)
        return FeatureTable(
            [(_together(features, device), _together(outputs, device))], self.counts
        )

    def batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Features [batch, masks, features] and outputs [batch, masks] of some rows."""
        if len(self._parts) == 1:
            features, outputs = self._parts[0]
            index = torch.as_tensor(rows, device=features.device)
            return features[index], outputs[index]
        picked = []
        for row, part in zip(rows, np.searchsorted(self._ends, rows, side="right"), strict=True):
            features, outputs = self._parts[part]
            place = int(row) - (self._ends[part] - len(outputs))
            picked.append((features[place], outputs[place]))
        return torch.stack([f for f, _ in picked]), torch.stack([o for _, o in picked])


def _together(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Tensors one after the other on a device, with no second copy there."""
    rows = sum(len(part) for part in parts)
    gathered = torch.empty(rows, *parts[0].shape[1:], dtype=parts[0].dtype, device=device)
    start = 0
    for part in parts:
        gathered[start : start + len(part)].copy_(part)
        start += len(part)
    return gathered


def free_memory(device: torch.device, cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that can still be taken on a device; on the CPU within the container's limit.

    Args:
        cgroup: where the kernel (cgroup v2) tells of the container's memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free: int = psutil.virtual_memory().available
    limit = _number(cgroup / "memory.max")
    used = _number(cgroup / "memory.current")
    if limit is None or used is None:
        return free
    # What the kernel keeps of files, such as the shards just written, it gives back when asked;
    # files that live in memory only (tmpfs) are counted among them and cannot be given back.
    kept = cgroup / "memory.stat"
    cached = (_number(kept, "\nfile ") or 0) - (_number(kept, "\nshmem ") or 0)
    return min(free, limit - used + cached)


def _number(path: Path, label: str = "") -> int | None:
    """The number after a label in a file of the kernel's; None if there is none."""
    try:
        text = path.read_text()
    except OSError:
        return None
    words = text[text.find(label) + len(label) :].split() if label in text else []
    return int(words[0]) if words and words[0].isdecimal() else None
