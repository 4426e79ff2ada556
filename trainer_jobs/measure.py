"""What a stage costs: time, and the most memory."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

_MB = 1_000_000


@contextmanager
def measured(done: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Measure a block.

    Args:
        done: gets `seconds`, `peak_memory_mb` and, with a GPU, `peak_gpu_memory_mb`, also if the
            block ends in an exception.
    """
    _forget_peak()
    started = time.monotonic()
    try:
        yield
    except BaseException:
        with suppress(OSError):  # what went wrong first is told
            done(_costs(started))
        raise
    done(_costs(started))


def _costs(started: float) -> dict[str, Any]:
    costs: dict[str, Any] = {
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_mb": round(_peak_bytes() / _MB),
    }
    if torch.cuda.is_available():
        devices = range(torch.cuda.device_count())
        costs["peak_gpu_memory_mb"] = round(
            sum(map(torch.cuda.max_memory_allocated, devices)) / _MB
        )
    return costs


def _forget_peak() -> None:
    """Begin a new peak where the system can; elsewhere it is that of the whole process."""
    if torch.cuda.is_available():
        for device in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(device)
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak_bytes() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
