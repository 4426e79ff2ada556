"""Progress of long work: a bar at a terminal or in a notebook, plain lines in a log, printed where
there is no log.

What is part of longer work that shows its own progress shows none, and neither does what runs
inside `silent`, for a server whose terminal is nobody's.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from tqdm.auto import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
"""Rare enough for a log of hours, often enough to see that a worker lives."""

_SECONDS_BETWEEN_LOOKS = 1.0
"""How often a bar's clock moves and a line may be due while one step takes long."""

_hushed: ContextVar[bool] = ContextVar("at2_progress_hushed", default=False)


@contextmanager
def silent() -> Iterator[None]:
    """Show no progress of what runs inside the block, in this thread."""
    token = _hushed.set(True)
    try:
        yield
    finally:
        _hushed.reset(token)


def interactive() -> bool:
    """Whether somebody watches who can see a bar move."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Progress:
    """Counts towards a total, and shows it.

    A line in a log has the count, the rate and the time left, as a bar has; the first comes after
    `SECONDS_BETWEEN_LINES`, the last at the end. Both are on time while one step takes long. What
    was there before does not count as work.

    Args:
        total: what there is to do.
        description: what is done.
        bar: whether to draw a bar; by default if somebody watches.
        clock: seconds, ever growing.
        brief: of work that is often over at once: no line at the end if there was none before.
    """

    def __init__(
        self,
        total: int,
        description: str,
        *,
        bar: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        brief: bool = False,
    ) -> None:
        self._total = total
        self._description = description
        self._clock = clock
        self._count = self._found = 0
        self._started = self._said = clock()
        self._hushed = _hushed.get()
        self._brief, self._lines = brief, 0
        shown = not self._hushed and (interactive() if bar is None else bar)
        self._bar: Any = None
        if shown:
            self._bar = tqdm(total=total, desc=description, leave=not brief)
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._watch: threading.Thread | None = None
        self._outer: Token[bool] | None = None

    def __enter__(self) -> "Progress":
        self._outer = _hushed.set(True)
        if not self._hushed:
            self._watch = threading.Thread(target=self._look, name="progress", daemon=True)
            self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._outer is not None:
            _hushed.reset(self._outer)
        self._ended.set()
        if self._watch is not None:
            self._watch.join()
        if self._bar is not None:
            self._bar.close()
        elif kind is None and not self._hushed and (self._lines or not self._brief):
            self._say()

    def _look(self) -> None:
        """Keep the bar's clock going and lines on time, whatever a step takes."""
        while not self._ended.wait(_SECONDS_BETWEEN_LOOKS):
            with self._lock:
                if self._bar is not None:
                    self._bar.refresh()
                else:
                    self._say_if_due()

    @property
    def num_made(self) -> int:
        """What has been done here, without what was there before."""
        return self._count - self._found

    def count_existing(self, count: int = 1) -> None:
        """Count what need not be done again."""
        self._found += count
        self._advance(count)

    def update(self, count: int = 1) -> None:
        """Count what has just been done."""
        self._advance(count)

    def _advance(self, count: int) -> None:
        with self._lock:
            self._count += count
            if self._bar is not None:
                self._bar.update(count)
            else:
                self._say_if_due()

    def print(self, line: str) -> None:
        """Print a line beside the bar."""
        tqdm.write(line)

    def _say_if_due(self) -> None:
        if not self._hushed and self._clock() - self._said >= SECONDS_BETWEEN_LINES:
            self._say()

    def _say(self) -> None:
        self._lines += 1
        self._said = self._clock()
        elapsed = self._said - self._started
        line = f"{self._description}: {self._count}/{self._total}"
        if self.num_made and elapsed > 0:
            rate = self.num_made / elapsed
            line += f", {rate:.3g}/s, {duration((self._total - self._count) / rate)} left"
        if logger.hasHandlers():
            logger.info("%s", line)
        else:
            self.print(line)


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as `1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
