"""A caller who waits for a reply, and how the work for them learns that they no longer do.

A client closes the connection, a request's time is over, or the server stops. Each ends what is
done for the caller through `Caller.leave`; whoever does something for a caller either lets it be
cancelled (`Caller.result_of`) or listens. Knows nothing of HTTP or of models.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, TypeVar

from service.failures import DeadlineError, EngineDownError

T = TypeVar("T")


class Departure(StrEnum):
    """Why a caller no longer waits."""

    GONE = "gone"
    """They closed the connection: nobody is left to reply to."""

    LATE = "late"
    """Their time is over: they get what there is by now."""

    STOPPING = "stopping"
    """The server stops."""


class ClientGoneError(Exception):
    """There is nobody left to reply to."""


class Caller:
    """Somebody who waits for a reply. For one request, on the event loop.

    Args:
        name: tells callers apart, the id of a key for example; callers without a name are one.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.seconds = 0.0  # the latest limit, for whoever tells it
        self._came = asyncio.get_running_loop().time()
        self._timer: asyncio.TimerHandle | None = None
        self.departures: list[Departure] = []
        self._listeners: list[Callable[[Departure], None]] = []

    def leave(self, why: Departure) -> None:
        """The caller no longer waits. Saying the same again changes nothing."""
        if why in self.departures:
            return
        self.departures.append(why)
        for listener in list(self._listeners):
            listener(why)

    @contextmanager
    def listening(self, listener: Callable[[Departure], None]) -> Iterator[None]:
        """Have a function called when the caller leaves, or at once if they have left."""
        self._listeners.append(listener)
        try:
            for why in list(self.departures):
                listener(why)
            yield
        finally:
            self._listeners.remove(listener)

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """A deadline for the block: so many seconds after the caller came, they leave as too
        late."""
        self.allow(seconds)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def allow(self, seconds: float) -> None:
        """Move the deadline of the block to so many seconds after the caller came."""
        if self._timer is not None:
            self._timer.cancel()
        self.seconds = seconds
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(self._came + seconds, self.leave, Departure.LATE)

    async def result_of(self, work: Awaitable[T], *, though_late: bool = False) -> T:
        """The result of some work, which is cancelled when the caller leaves.

        Args:
            work: what to do for the caller.
            though_late: go on when the caller's time is over.

        Raises:
            ClientGoneError, DeadlineError, EngineDownError: the caller left, for each reason.
        """
        loop = asyncio.get_running_loop()
        left: asyncio.Future[Any] = loop.create_future()

        def told(why: Departure) -> None:
            if not left.done() and not (though_late and why is Departure.LATE):
                left.set_result(why)

        working: asyncio.Future[Any] = asyncio.ensure_future(work)
        try:
            with self.listening(told):
                await asyncio.wait({working, left}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise self.error(left.result())
            result: T = working.result()
            return result
        except asyncio.CancelledError:  # the server does not wait for this request any longer
            self.leave(Departure.STOPPING)
            raise
        finally:
            left.cancel()
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    def error(self, why: Departure) -> Exception:
        """What a caller who left for this reason would be told."""
        if why is Departure.LATE:
            return DeadlineError(self.seconds)
        if why is Departure.STOPPING:
            return EngineDownError("the server is stopping")
        return ClientGoneError()
