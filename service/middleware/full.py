"""While the server is full, new work is refused before anything of it is read."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import reply

_WORK = frozenset({"/generate", "/attribute"})

_RETRY_AFTER_S = 1
"""A place is free when the next request ends."""


class RefuseWhenFull:
    """Answers 429 to generations and attributions beyond the most there may be.

    Args:
        app: what is inside, which asks again when it lets a request in.
        limit: requests in progress.
        in_progress: how many there are.
    """

    def __init__(self, app: ASGIApp, *, limit: int, in_progress: Callable[[], int]) -> None:
        self._app = app
        self._limit = limit
        self._in_progress = in_progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        work = scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in _WORK
        if not work or self._in_progress() < self._limit:
            await self._app(scope, receive, send)
            return
        response = reply(
            429,
            f"{self._limit} requests are in progress, the most this server takes",
            kind="rate_limit_error",
            code="server_busy",
        )
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
        await response(scope, receive, send)
