"""Progress of a long stage: a bar at a terminal or in a notebook, plain lines in a log, printed
where there is no log."""

import logging
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
"""Rare enough for a log of hours, often enough to see that a worker lives."""


def interactive() -> bool:
    """Whether somebody watches who can see a bar move."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Progress:
    """Counts towards a total, and shows it.

    A line in a log has the count, the rate and the time left, as a bar has; the first comes after
    `SECONDS_BETWEEN_LINES`, the last at the end. What was there before does not count as work.

    Args:
        total: what there is to do.
        description: what is done.
        bar: whether to draw a bar; by default if somebody watches.
        clock: seconds, ever growing.
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        bar: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._description = description
        self._clock = clock
        self._count = self._found = 0
        self._started = self._said = clock()
        shown = interactive() if bar is None else bar
        self._bar: Any = tqdm(total=total, desc=description) if shown else None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._say()

    def found(self, count: int = 1) -> None:
        """Count what need not be done again."""
        self._found += count
        self._advance(count)

    def update(self, count: int = 1) -> None:
        """Count what has just been done."""
        self._advance(count)

    def _advance(self, count: int) -> None:
        self._count += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._clock() - self._said >= SECONDS_BETWEEN_LINES:
            self._say()

    def print(self, line: str) -> None:
        """Print a line beside the bar."""
        tqdm.write(line)

    def _say(self) -> None:
        self._said = self._clock()
        elapsed = self._said - self._started
        line = f"{self._description}: {self._count}/{self._total}"
        done = self._count - self._found
        if done and elapsed > 0:
            rate = done / elapsed
            line += f", {rate:.3g}/s, {_duration((self._total - self._count) / rate)} left"
        if logger.hasHandlers():
            logger.info("%s", line)
        else:
            self.print(line)


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
