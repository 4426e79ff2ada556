"""uvicorn, with a stop that balancers can see coming.

When asked to stop, the server keeps listening while requests finish: readiness fails and new work
gets 503, where a closed port would look like a crash. Then the port closes and the process ends.
"""

import logging
import os
import signal
import threading
from socket import socket
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from service.lifecycle import Lifecycle
from service.settings import Settings

logger = logging.getLogger("at2.service")

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
        super().__init__(
            uvicorn.Config(
                app,
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

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Readiness fails from here on; a second signal stops without waiting."""
        if self._lifecycle.stopping:
            self.force_exit = True
        self._lifecycle.stop()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Let running requests finish within the limit, then close everything."""
        self._end_at_the_latest()
        logger.info("stopping", extra={"facts": {"requests_under_way": self._lifecycle.under_way}})
        if not await self._lifecycle.idle(self._shutdown_seconds, give_up=lambda: self.force_exit):
            logger.warning(
                "requests cancelled",
                extra={"facts": {"requests_under_way": self._lifecycle.under_way}},
            )
        await super().shutdown(sockets)

    def _end_at_the_latest(self) -> None:
        """A pass over the model cannot be interrupted from outside; the process can be."""

        def end() -> None:
            logger.error("still busy after the limit: ending without waiting")
            os._exit(1)

        limit = self._shutdown_seconds + _CANCEL_SECONDS + _CLOSE_SECONDS
        timer = threading.Timer(limit, end)
        timer.daemon = True
        timer.start()


def run(app: ASGIApp, settings: Settings, lifecycle: Lifecycle) -> int:
    """Serve until a signal; the exit status."""
    server = Server(app, settings, lifecycle)
    try:
        server.run()
    except KeyboardInterrupt:  # uvicorn raises the signal again when it has stopped for it
        return 0
    except SystemExit as stop:  # `exit_on_sigterm` in the same case, or a start that failed
        return 1 if stop.code else 0
    return 0 if server.started else 1


def exit_on_sigterm() -> None:
    """Make SIGTERM end the process with status 0 wherever it is: before serving, and after."""

    def end(sig: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
