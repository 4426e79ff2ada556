"""Around all that answers: the request's id, its log line, its metrics, and the last resort.

The line and the metrics are written when the last byte is out, so a streamed reply counts for as
long as it really took.
"""

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import reply
from service.metrics import Metrics
from service.security import METRICS_PATH

logger = logging.getLogger("at2.access")

REQUEST_ID_HEADER = "X-Request-ID"

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""What other systems make ids of; anything else could forge log lines, and gets a new id."""

_UNCOUNTED = frozenset({"/health", "/ready", METRICS_PATH})

_CLIENT_GONE = 499
"""In the log and the metrics: the client went away before the reply began (as nginx has it)."""


class Observe:
    """Gives a request its id, logs and counts it, and turns what nobody caught into a 500.

    Args:
        app: what is inside.
        metrics: where to count.
        log_text: whether the line may have what users wrote.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics, log_text: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._log_text = log_text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        given = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        with logs.request_notes(request_id) as notes:
            try:
                await self._app(scope, receive, send_with_id)
            except asyncio.CancelledError:  # the server stopped before this was finished
                notes.facts["cancelled"] = True
                raise
            except Exception:
                logger.exception("unexpected error")
                if not status:
                    response = reply(
                        500, "internal error", kind="server_error", code="internal_error"
                    )
                    await response(scope, receive, send_with_id)
                # else the reply has begun: ending here makes uvicorn cut the connection, so that
                # the client cannot take what it has for all of it
            finally:
                self._conclude(scope, notes, status or _CLIENT_GONE, time.perf_counter() - started)

    def _conclude(
        self, scope: Scope, notes: logs.RequestNotes, status: int, seconds: float
    ) -> None:
        route = getattr(scope.get("route"), "path", None)
        counted = scope["path"] not in _UNCOUNTED
        facts: dict[str, logs.Fact] = {
            "method": scope["method"],
            "route": route,
            "status": status,
            "client": (scope.get("client") or (None,))[0],
            "duration_ms": round(seconds * 1000, 1),
            **notes.facts,
        }
        if self._log_text:
            facts |= notes.texts
        level = logging.INFO if counted else logging.DEBUG
        logger.log(level, "request", extra={"facts": facts})
        if not counted:
            return
        self._metrics.observe_request(
            method=scope["method"], route=route, status=status, seconds=seconds
        )
        kind = notes.facts.get("error_type")
        if kind is not None:
            code = notes.facts.get("error_code")
            self._metrics.observe_error(kind=str(kind), code=None if code is None else str(code))
