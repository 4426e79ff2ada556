"""uvicorn, with a stop that balancers can see coming.

When asked to stop, the server keeps listening while requests finish: readiness fails and new work
gets 503, where a closed port would look like a crash. Then the port closes and the process ends.
"""

import logging
import os
import signal
import socket
import threading
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from service.connections import Connections
from service.lifecycle import Lifecycle
from service.settings import Settings

logger = logging.getLogger("at2.service")

_ACCEPTED_AT_ONCE = 8
"""Connections, before the event loop gets round to those that it has."""

_CANCEL_SECONDS = 2
"""For requests that outlived the limit and were cancelled, to end."""

_CLOSE_SECONDS = 10.0
"""For the engine to let go after the last request; then the process ends without it."""


class Server(uvicorn.Server):
    """Serves an application until a signal, then lets what runs finish.

    Args:
        app: the application.
        settings: where to listen, and for how long running requests may take at the end.
        lifecycle: the application's own, told of the stop at once.
    """

    def __init__(self, app: ASGIApp, settings: Settings, lifecycle: Lifecycle) -> None:
        connections = Connections(settings)
        http: Any = connections.protocol
        super().__init__(
            uvicorn.Config(
                app,
                http=http,
                ws="none",
                backlog=_ACCEPTED_AT_ONCE,
                host=settings.host,
                port=settings.port,
                log_config=None,  # ours
                access_log=False,  # ours
                server_header=False,
                timeout_graceful_shutdown=_CANCEL_SECONDS,
            )
        )
        self._lifecycle = lifecycle
        self._shutdown_seconds = settings.shutdown_seconds
        self._backlog = connections.backlog

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, with a longer queue than is accepted in one round of the event loop: asyncio
        has one number for both."""
        await super().startup(sockets)
        for listener in self.servers:
            for place in listener.sockets:
                with place.dup() as same:
                    same.listen(self._backlog)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Readiness fails from here on; a second signal stops without waiting."""
        if self._lifecycle.stopping:
            self.force_exit = True
        self._lifecycle.stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests finish within the limit, then close everything."""
        deadline = self._end_at_the_latest()
        logger.info("stopping", extra={"facts": {"requests_under_way": self._lifecycle.under_way}})
        if not await self._lifecycle.idle(self._shutdown_seconds, give_up=lambda: self.force_exit):
            logger.warning(
                "requests cancelled",
                extra={"facts": {"requests_under_way": self._lifecycle.under_way}},
            )
        await super().shutdown(sockets)
        deadline.cancel()  # the process may live on: a server can run in a thread of it

    def _end_at_the_latest(self) -> threading.Timer:
        """A pass over the model cannot be interrupted from outside; the process can be."""

        def end() -> None:
            logger.error("still busy after the limit: ending without waiting")
            os._exit(1)

        limit = self._shutdown_seconds + _CANCEL_SECONDS + _CLOSE_SECONDS
        timer = threading.Timer(limit, end)
        timer.daemon = True
        timer.start()
        return timer


def check_address(settings: Settings) -> None:
    """Find out before a model is loaded whether the address can be listened on.

    Raises:
        ValueError: it cannot: it is in use, or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as uvicorn does
            probe.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ValueError(f"AT2_HOST={settings.host}, AT2_PORT={settings.port}: {reason}") from error


def run(app: ASGIApp, settings: Settings, lifecycle: Lifecycle) -> int:
    """Serve until a signal; the exit status."""
    server = Server(app, settings, lifecycle)
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn raises the signal again when it has stopped for it
        return 0
    except SystemExit as stop:  # the same where `exit_on_signals` was called, or a failed start
        return 1 if stop.code else 0
    return 0 if server.started else 1


def exit_on_signals() -> None:
    """Make SIGTERM and SIGINT end the process with status 0 wherever it is, loading included."""

    def end(sig: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
