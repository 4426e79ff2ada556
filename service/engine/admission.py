"""How many requests are let in at once, and when to try again. Runs on the event loop only."""

import math
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from service.engine.accounts import Accounts
from service.failures import BusyError

_WEIGHT = 0.1
"""Of the latest request in the average duration."""

_LONGEST_WAIT = 60
"""Seconds that a refused caller is told to wait at most."""

MANY_PASSES = 16
"""From here on an attribution is one of many passes: no attribution by attention is, nor the
verification of one span."""


class Admission:
    """Counts requests in progress, all of them and each caller's.

    Args:
        limit: how many there may be.
        of_one_caller: how many of them may be of one named caller; by default three quarters.
        of_many_passes: how many of them may be attributions of many passes, by default a quarter;
            of one named caller, half as many.
        accounts: where it is written down who was refused.
    """

    def __init__(
        self,
        limit: int,
        of_one_caller: int | None,
        of_many_passes: int | None,
        accounts: Accounts,
    ) -> None:
        self._accounts = accounts
        self.limit = limit
        self.of_one_caller = min(of_one_caller or math.ceil(0.75 * limit), limit)
        many = of_many_passes or math.ceil(0.25 * limit)
        self.of_many_passes = min(many, limit)
        self._places = _Places("requests are in progress", limit, self.of_one_caller)
        self._many = _Places(
            "attributions of many passes are in progress", many, math.ceil(many / 2)
        )

    @property
    def in_progress(self) -> int:
        """Requests in progress."""
        return self._places.taken

    def check(self, caller: str = "") -> None:
        """Find out whether a request would be let in now, before anything is made of it.

        Raises:
            BusyError: it would not.
        """
        with self._refused(caller):
            self._places.check(caller)

    @contextmanager
    def request(self, caller: str = "") -> Iterator[None]:
        """A request in progress.

        Raises:
            BusyError: there are too many already.
        """
        with self._counted(self._places, caller):
            yield

    @contextmanager
    def attribution(self, passes: int, caller: str = "") -> Iterator[None]:
        """An attribution that takes so many passes over the model, within its request.

        Raises:
            BusyError: it is one of many, and there are too many such already.
        """
        if passes < MANY_PASSES:
            yield
            return
        with self._counted(self._many, caller):
            yield

    @contextmanager
    def _counted(self, places: "_Places", caller: str) -> Iterator[None]:
        with ExitStack() as place:
            with self._refused(caller):
                place.enter_context(places.one(caller))
            yield

    @contextmanager
    def _refused(self, caller: str) -> Iterator[None]:
        try:
            yield
        except BusyError:
            self._accounts.of(caller).refused += 1
            raise


class _Places:
    """Places for requests of one kind, of which a caller may take a part."""

    def __init__(self, what: str, limit: int, of_one_caller: int) -> None:
        self._what = what
        self._limit = limit
        self._of_one_caller = of_one_caller
        self._seconds = 1.0
        self._of: Counter[str] = Counter()
        self.taken = 0

    def check(self, caller: str) -> None:
        if self.taken >= self._limit:
            raise BusyError(f"{self._limit} {self._what}, the most this server takes", self._wait())
        if caller and self._of[caller] >= self._of_one_caller:
            raise BusyError(
                f"{self._of[caller]} of your {self._what}, the most one key may have", self._wait()
            )

    @contextmanager
    def one(self, caller: str) -> Iterator[None]:
        self.check(caller)
        started = time.monotonic()
        self.taken += 1
        self._of[caller] += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._of[caller] -= 1
            if not self._of[caller]:
                del self._of[caller]
            self._seconds += _WEIGHT * (time.monotonic() - started - self._seconds)

    def _wait(self) -> int:
        """Seconds until the next request is likely to end, and to leave its place."""
        return min(max(math.ceil(self._seconds), 1), _LONGEST_WAIT)
