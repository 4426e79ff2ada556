"""Server-sent events: a reply in pieces, over one HTTP response.

Each event is one line `data: …` and an empty one; a line that starts with a colon is a comment,
which keeps proxies from closing a silent connection; `data: [DONE]` is the last line of a stream,
whether it ended well or with an error.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service import links
from service.caller import Caller, ClientGoneError
from service.disconnect import connected
from service.logs import note

KEEP_ALIVE_SECONDS = 10.0
"""How long a stream may be silent; common proxies give up after 60."""

_EVENT_SCHEMA = {
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string", "description": "an object as JSON, or `[DONE]` at the end"}
    },
}
"""Of one event: before OpenAPI 3.2 there is no way to say that there are many."""


def documented(description: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI document of a route that gives a generation, whole or in events."""
    content = {"text/event-stream": {"schema": _EVENT_SCHEMA}}
    return {200: {"description": description, "content": content, "links": links.OF_A_GENERATION}}


_KEEP_ALIVE = b": still here\n\n"
_DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """A JSON value as an event; bytes are JSON already."""
    if isinstance(value, bytes):
        return b"data: " + value + b"\n\n"
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


class EventStream(Response):
    """A response of events, whose source is closed in any case: at its end, on an error, and as
    soon as the client has gone away.

    Args:
        events: JSON values, or bytes that are JSON. It answers for its own errors: one that gets
            here cuts the connection.
        caller: who waits for them.
        close: called once, whatever happened.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncIterator[Any], caller: Caller, close: Callable[[], None]
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._caller = caller
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events as they come."""
        try:
            async with connected(receive, self._caller):
                await self._caller.result_of(self._send(send), though_late=True)
        except ClientGoneError:
            note(client_gone=True)
        finally:
            self._close()

    async def _send(self, send: Send) -> None:
        async def out(body: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        await send(
            {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        )
        pending: asyncio.Future[Any] = asyncio.ensure_future(_next(self._events))
        try:
            while True:
                done, _ = await asyncio.wait({pending}, timeout=KEEP_ALIVE_SECONDS)
                if not done:
                    await out(_KEEP_ALIVE)
                    continue
                value = pending.result()
                if value is _END:
                    break
                await out(event(value))
                pending = asyncio.ensure_future(_next(self._events))
        finally:
            pending.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await pending
        await out(_DONE, more=False)


_END = object()


async def _next(events: AsyncIterator[Any]) -> Any:
    return await anext(events, _END)
