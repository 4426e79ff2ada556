"""How many requests are let in at once, and when to try again. Runs on the event loop only."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.failures import BusyError

_WEIGHT = 0.1
"""Of the latest request in the average duration."""

_LONGEST_WAIT = 60
"""Seconds that a refused caller is told to wait at most."""


class Admission:
    """Counts requests in progress.

    Args:
        limit: how many there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seconds = 1.0
        self.in_progress = 0

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request in progress.

        Raises:
            BusyError: there are too many already.
        """
        if self.in_progress >= self._limit:
            # A place is free when the next request ends; on average that is soon.
            wait = min(max(math.ceil(self._seconds), 1), _LONGEST_WAIT)
            raise BusyError(self._limit, wait)
        started = time.monotonic()
        self.in_progress += 1
        try:
            yield
        finally:
            self.in_progress -= 1
            self._seconds += _WEIGHT * (time.monotonic() - started - self._seconds)
