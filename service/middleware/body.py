"""No body larger than the limit, whether its length is announced or it comes in chunks."""

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import reply

_DISCARD_FACTOR = 4
_DISCARD_SECONDS = 5.0
"""How much of a refused body is read and thrown away, in units of the limit, and for how long:
a client that is still sending when the connection closes often never sees the reply."""


class BodyLimit:
    """Reads a request's body before the routes do, and refuses it with 413 beyond the limit.

    Args:
        app: what is inside.
        limit: bytes.
    """

    def __init__(self, app: ASGIApp, *, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > self._limit:
            # one that waits for our consent to send has sent nothing that could be discarded
            if headers.get("expect", "").lower() != "100-continue":
                await self._discard(receive)
            await self._refuse(scope, receive, send, f"{announced} bytes")
            return
        if not announced and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return

        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":  # gone before all of it was here
                return
            body += message.get("body", b"")
            if len(body) > self._limit:
                if message.get("more_body", False):
                    await self._discard(receive)
                await self._refuse(scope, receive, send, f"more than {self._limit} bytes")
                return
            if not message.get("more_body", False):
                break

        replayed = False

        async def replay() -> Message:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        await self._app(scope, replay, send)

    async def _discard(self, receive: Receive) -> None:
        left = _DISCARD_FACTOR * self._limit
        try:
            async with asyncio.timeout(_DISCARD_SECONDS):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, size: str) -> None:
        response = reply(
            413,
            f"the body has {size}, the limit here is {self._limit} bytes",
            kind="invalid_request_error",
            code="body_too_large",
        )
        response.headers["Connection"] = "close"  # the rest of the body was not read
        await response(scope, receive, send)
