"""uvicorn's HTTP protocol, with an end to every wait for a client.

A connection costs a file and some memory, and a process has few thousand files. So a request has to
arrive whole within a time, a reply has to be read at some pace, and where there are too many
connections those go first that have no whole request: the one that waits longest before others.
Knows HTTP, and nothing of what is served.
"""

import asyncio
import logging
import resource
from collections import OrderedDict
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from service.settings import Settings

logger = logging.getLogger("at2.service")

_OTHER_FILES = 64
"""Files that the process has beside connections: of the model, the store, its threads."""

_LEAST_BACKLOG, _MOST_BACKLOG = 128, 2048
"""Where the queue of connections is full, the system drops what its clients send to connect, and
they try again after seconds; so a small limit on connections makes no small queue."""

_SLOWEST = 1024
"""Bytes a second that a client has to read of its reply, on average over the limit."""


class Connections:
    """All connections of a server, and the limits that they share.

    Args:
        settings: their number, and the seconds for headers and for replies.

    Attributes:
        most: how many there may be.
        backlog: how many may wait to be accepted.
    """

    def __init__(self, settings: Settings) -> None:
        self.header_seconds = settings.header_seconds
        self.write_seconds = settings.write_seconds
        self.most = min(settings.max_connections, _room_for_files(settings.max_connections))
        self.backlog = max(_LEAST_BACKLOG, min(_MOST_BACKLOG, self.most))
        self.waiting: OrderedDict[Connection, None] = OrderedDict()  # the oldest first

    def protocol(self, **arguments: Any) -> "Connection":
        """A new connection; uvicorn calls this for each."""
        return Connection(self, **arguments)


def _room_for_files(wanted: int) -> int:
    """How many connections the limit on open files allows; it is raised as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + max(wanted, _LEAST_BACKLOG) + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted
    free = soft - _OTHER_FILES
    return max(1, min(free // 2, free - _LEAST_BACKLOG))


class Connection(H11Protocol):
    """One connection.

    Args:
        connections: those of the server, of which it is one.
        **arguments: see `H11Protocol`.
    """

    def __init__(self, connections: Connections, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._all = connections
        self._arriving: asyncio.TimerHandle | None = None
        self._leaving: asyncio.TimerHandle | None = None

    # -- requests arrive -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request; where there are too many connections, one that waits goes."""
        super().connection_made(transport)
        self._wait()
        if len(self.connections) > self._all.most:
            oldest = next(iter(self._all.waiting))  # this one, if all others have a request
            oldest.drop("too many connections: those without a whole request are closed")

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        super().data_received(data)
        self._wait()

    def on_response_complete(self) -> None:
        """A reply has been handed to the transport; the next request may come."""
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._watch_leaving()
        self._wait(fresh=True)

    def _wait(self, *, fresh: bool = False) -> None:
        """Start or stop the timer for headers, and note whether a whole request is waited for."""
        running = self.cycle is not None and not self.cycle.response_complete
        if running and not self.cycle.more_body:
            self._all.waiting.pop(self, None)
        elif not self.transport.is_closing():
            self._all.waiting.setdefault(self, None)
        # between requests, uvicorn's own timer runs; the body has a limit of its own
        idle = fresh and self.timeout_keep_alive_task is not None
        if running or idle or self.transport.is_closing():
            if self._arriving is not None:
                self._arriving.cancel()
                self._arriving = None
        elif self._arriving is None:
            self._arriving = self.loop.call_later(
                self._all.header_seconds,
                self.drop,
                f"headers of requests were not here within {self._all.header_seconds:g} seconds",
            )

    # -- replies leave -------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The client reads more slowly than the reply is written."""
        super().pause_writing()
        self._watch_leaving()

    def _watch_leaving(self) -> None:
        if self._leaving is None:
            self._leaving = self.loop.call_later(
                self._all.write_seconds, self._check, self.transport.get_write_buffer_size()
            )

    def _check(self, before: int) -> None:
        """Cut the client off unless enough of its reply has gone since there were `before` bytes
        left."""
        self._leaving = None
        left = self.transport.get_write_buffer_size()
        growing = not self.flow.write_paused and not self.cycle.response_complete
        if not left or growing:
            return
        if before - left < min(before, _SLOWEST * self._all.write_seconds):
            self.drop(f"replies were not read within {self._all.write_seconds:g} seconds")
        else:
            self._watch_leaving()

    # -- the end -------------------------------------------------------------------------------

    def drop(self, reason: str) -> None:
        """Close it now, whatever is still to be sent."""
        logger.warning("connection closed: %s", reason)
        self._all.waiting.pop(self, None)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        super().connection_lost(exc)
        self._all.waiting.pop(self, None)
        for timer in (self._arriving, self._leaving):
            if timer is not None:
                timer.cancel()
