"""However many requests come at once, the event loop gets round to the others in between.

A round of the loop lasts as long as everything that is ready in it. Hundreds of requests that each
take a few milliseconds would make it last seconds, in which no token is sent and no probe answered.
"""

import asyncio
from collections import OrderedDict, deque

from starlette.types import ASGIApp, Receive, Scope, Send

_IN_A_ROUND = 8
"""Requests that begin in one round of the loop."""

_PROBES = frozenset({"/health", "/ready"})
"""Begin at once."""


class Pace:
    """Lets a few requests begin in each round of the event loop, of all callers in turns.

    Args:
        app: what is inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._left = 0  # that may still begin in this round
        self._in_rounds = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["path"] not in _PROBES:
            client = scope.get("client") or ("",)
            await self._turn(scope.get("state", {}).get("key_id") or client[0])
        await self._app(scope, receive, send)

    async def _turn(self, caller: str) -> None:
        if not self._in_rounds:
            self._begin_round()
        if self._left and not self._waiting:
            self._left -= 1
            return
        begins = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(begins)
        await begins

    def _begin_round(self) -> None:
        self._in_rounds = True
        self._left = _IN_A_ROUND
        while self._left and self._waiting:
            caller, requests = self._waiting.popitem(last=False)
            begins = requests.popleft()
            if requests:
                self._waiting[caller] = requests  # behind all others
            if not begins.done():  # it is, if the server is stopping
                begins.set_result(None)
                self._left -= 1
        asyncio.get_running_loop().call_soon(self._end_round)

    def _end_round(self) -> None:
        if self._waiting or self._left < _IN_A_ROUND:
            self._begin_round()
        else:
            self._in_rounds = False
