"""Only requests for this server by one of its names: a page of somebody else's, whose name leads
here, is refused (DNS rebinding)."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import reply
from service.failures import SHOWN
from service.security import TrustedHosts


class RequireHost:
    """Answers 421 unless the `Host` of a request is trusted.

    Args:
        app: what is inside.
        hosts: those that are.
    """

    def __init__(self, app: ASGIApp, *, hosts: TrustedHosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")
        arrived_at = (scope.get("server") or ("",))[0]
        if self._hosts.accept(host, arrived_at):
            await self._app(scope, receive, send)
            return
        response = reply(
            421,
            f"this server does not answer for the host {host[:SHOWN]!r}; AT2_TRUSTED_HOSTS has "
            "the names by which it may be called",
            kind="invalid_request_error",
            code="untrusted_host",
        )
        await response(scope, receive, send)
