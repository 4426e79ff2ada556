"""Headers that tell browsers to do nothing with a reply but read it."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

_DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY = (  # its start-up script and its styles stand in the page itself
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_DOCS_PATH = "/docs"

_FILE_TYPES = ("text/css", "text/javascript", "application/javascript", "image/", "font/")


class SecurityHeaders:
    """Adds them where a route has not set its own.

    Args:
        app: what is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
                content_type = headers.get("content-type", "")
                if content_type.startswith("text/html"):
                    is_docs = scope["path"].startswith(_DOCS_PATH)
                    policy = _DOCS_POLICY if is_docs else _PAGE_POLICY
                else:
                    policy = _DATA_POLICY
                headers.setdefault("Content-Security-Policy", policy)
                if not content_type.startswith(_FILE_TYPES):
                    headers.setdefault("Cache-Control", "no-store")  # replies quote users
            await send(message)

        await self._app(scope, receive, send_with_headers)
