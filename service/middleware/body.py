"""No body larger than the limit, whether its length is announced or it comes in chunks; none that
takes for ever to come, and not too many bytes of all large ones at once."""

import asyncio

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import reply

_DISCARD_FACTOR = 4
_DISCARD_SECONDS = 5.0
"""How much of a refused body is read and thrown away, in units of the limit, and for how long:
a client that is still sending when the connection closes often never sees the reply."""

_MOST_AT_ONCE = 16
"""Bodies of the largest size that may be in memory at once."""

_SMALL = 1 / 64
"""Of the largest size; for smaller bodies there is always room, whatever the large ones do."""

_RETRY_AFTER_S = 1
"""Seconds; a body is gone from memory as soon as its request is answered."""


class _Gone(Exception):  # noqa: N818 (nobody is told)
    """The client went away before all of the body was here."""


class BodyLimit:
    """Reads a request's body before the routes do. Refuses it with 413 beyond the limit, with 408
    if it does not come in time, and with 429 while those of others take up all the room.

    Args:
        app: what is inside.
        limit: bytes of one body.
        seconds: in which it has to come.
        still: seconds in which some of it has to come.
    """

    def __init__(self, app: ASGIApp, *, limit: int, seconds: float, still: float) -> None:
        self._app = app
        self._limit = limit
        self._seconds = seconds
        self._still = still
        self._held = 0  # bytes of all bodies in memory

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
            await _refuse(self._too_large(f"{announced} bytes"), scope, receive, send)
            return
        if not announced and "transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return

        body = bytearray()
        try:
            async with asyncio.timeout(self._seconds):
                refusal = await self._read(receive, body)
        except TimeoutError:
            refusal = self._too_slow(self._seconds)
        except _Gone:
            self._held -= len(body)
            return
        try:
            if refusal is None:
                await self._app(scope, _replay(bytes(body), receive), send)
            else:
                await _refuse(refusal, scope, receive, send)
        finally:
            self._held -= len(body)

    async def _read(self, receive: Receive, body: bytearray) -> Response | None:
        """Read a body to its end; what is said instead, if it cannot be taken."""
        more = True
        while more:
            try:
                async with asyncio.timeout(self._still):
                    message = await receive()
            except TimeoutError:
                return self._too_slow(self._still)
            if message["type"] != "http.request":
                raise _Gone
            chunk, more = message.get("body", b""), message.get("more_body", False)
            body += chunk
            self._held += len(chunk)
            refusal = None
            if len(body) > self._limit:
                refusal = self._too_large(f"more than {self._limit} bytes")
            elif len(body) > _SMALL * self._limit and self._held > _MOST_AT_ONCE * self._limit:
                refusal = self._no_room()
            if refusal is not None:
                if more:
                    await self._discard(receive)
                return refusal
        return None

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

    def _too_large(self, size: str) -> Response:
        return reply(
            413,
            f"the body has {size}, the limit here is {self._limit} bytes",
            kind="invalid_request_error",
            code="body_too_large",
        )

    def _too_slow(self, seconds: float) -> Response:
        return reply(
            408,
            f"the body was not here within {seconds:g} seconds, the limit here",
            kind="invalid_request_error",
            code="body_too_slow",
        )

    def _no_room(self) -> Response:
        return reply(
            429,
            f"bodies of {_MOST_AT_ONCE * self._limit} bytes are in memory, the most this server "
            "takes at once",
            kind="rate_limit_error",
            code="server_busy",
            headers={"Retry-After": str(_RETRY_AFTER_S)},
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """What gives a body that was read already, then goes on with what comes."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def _refuse(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    response.headers["Connection"] = "close"  # the rest of the body was not read
    await response(scope, receive, send)
