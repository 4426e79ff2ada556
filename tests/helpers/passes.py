"""Passes in circumstances: in several threads at a time, or with little memory."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def at_once(work: Callable[[int], None], count: int) -> None:
    """Run a work in so many threads, each with its number."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fits_memory(script: str, argument: str) -> bool:
    """Whether a script that limits its own memory comes to its end, where it prints "fits"."""
    done = subprocess.run(
        [sys.executable, "-c", script, argument],
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env=os.environ | {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    fits = done.stdout.strip() == "fits"
    assert fits or "allocate memory" in done.stderr, done.stderr[-2000:]
    return fits
