"""Whether the server takes work, and how much it has. Knows nothing of HTTP or of models."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_SECONDS = 0.05


class Lifecycle:
    """Counts the requests under way and says when the server is about to stop.

    Used from the event loop; only `stop` may also be called from a signal handler.
    """

    def __init__(self) -> None:
        self._stopping = False
        self._under_way = 0

    @property
    def stopping(self) -> bool:
        """True from the moment that the server was asked to stop."""
        return self._stopping

    @property
    def under_way(self) -> int:
        """Requests that have begun and not ended; probes and metrics do not count."""
        return self._under_way

    def stop(self) -> None:
        """Take no new work from now on."""
        self._stopping = True

    @contextmanager
    def work(self) -> Iterator[None]:
        """Count a request for as long as the block runs."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    async def idle(self, seconds: float, *, give_up: Callable[[], bool]) -> bool:
        """Wait until nothing is under way; whether that was reached.

        Args:
            seconds: to wait at most.
            give_up: true when waiting is no longer wanted.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds
        while self._under_way and clock() < deadline and not give_up():
            await asyncio.sleep(_POLL_SECONDS)
        return not self._under_way
