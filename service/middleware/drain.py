"""While the server stops, what runs may finish and nothing new begins."""

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import reply
from service.lifecycle import Lifecycle
from service.security import METRICS_PATH

_PROBES = frozenset({"/health", METRICS_PATH})
"""Still true and still answered while stopping; `/ready` is not."""

_RETRY_AFTER_S = 1
"""By then a balancer has seen that this server is not ready."""


class Drain:
    """Counts requests under way, and answers 503 to new ones once the server is stopping.

    Args:
        app: what is inside.
        lifecycle: says whether the server is stopping, and is told what runs.
    """

    def __init__(self, app: ASGIApp, *, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or scope["path"] in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._lifecycle.stopping:
            response = reply(
                503,
                "the server is stopping",
                kind="server_error",
                code="server_stopping",
                headers={"Retry-After": str(_RETRY_AFTER_S), "Connection": "close"},
            )
            await response(scope, receive, send)
            return
        with self._lifecycle.work():
            await self._app(scope, receive, send)
