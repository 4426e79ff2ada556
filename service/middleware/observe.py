"""What surrounds every reply: the request's id, its log line, metrics and trace, and the last
resort.

All are concluded when the last byte is out, so a streamed reply counts for as long as it really
took.
"""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import logs
from service.errors import reply
from service.metrics import Metrics, method_label
from service.security import METRICS_PATH
from service.tracing import Span, Traces

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
        traces: where spans go; None for nowhere.
        log_text: whether the line may have what users wrote.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, traces: Traces | None, log_text: bool
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._traces = traces
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

        with self._traced(scope) as span, logs.request_notes(request_id) as notes:
            if span.trace_id is not None:
                notes.facts["trace_id"] = span.trace_id
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
                status = status or _CLIENT_GONE
                self._conclude(scope, notes, status, time.perf_counter() - started)
                _describe(span, scope, notes, status)

    @contextmanager
    def _traced(self, scope: Scope) -> Iterator[Span]:
        """The span of a request that is counted; one that does nothing for others."""
        if self._traces is None or scope["path"] in _UNCOUNTED:
            yield Span()
            return
        with self._traces.request(method_label(scope["method"]), Headers(scope=scope)) as span:
            yield span

    def _conclude(
        self, scope: Scope, notes: logs.RequestNotes, status: int, seconds: float
    ) -> None:
        route = _route(scope)
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


def _route(scope: Scope) -> str | None:
    """The path's template; None for unknown paths."""
    route: str | None = getattr(scope.get("route"), "path", None)
    return route


def _describe(span: Span, scope: Scope, notes: logs.RequestNotes, status: int) -> None:
    """Set the attributes of a request's span, as its log line has them, in OpenTelemetry's names
    where it has one. Neither path nor query is among them: these are the caller's words."""
    method, route = method_label(scope["method"]), _route(scope)
    span.rename(method if route is None else f"{method} {route}")
    span.set(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "at2.request_id": notes.request_id,
            **{f"at2.{name}": fact for name, fact in notes.facts.items() if name != "trace_id"},
        }
    )
    if status >= 500 or notes.facts.get("error_type") == "server_error":
        span.fail(str(notes.facts.get("error_code") or status))
