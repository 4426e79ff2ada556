"""While the server is full, new work is refused before anything of it is read."""

from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import of_failure
from service.failures import BusyError

_WORK = frozenset({"/generate", "/attribute", "/v1/chat/completions"})


class RefuseWhenFull:
    """Answers 429 to generations and attributions that would not be let in.

    Args:
        app: what is inside, which asks again when it lets a request in.
        check: raises `BusyError` if a caller, the id of a key, would not be let in now.
    """

    def __init__(self, app: ASGIApp, *, check: Callable[[str], None]) -> None:
        self._app = app
        self._check = check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in _WORK:
            try:
                self._check(scope.get("state", {}).get("key_id", ""))
            except BusyError as error:
                await of_failure(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
