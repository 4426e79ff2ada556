"""Traces of requests, for OpenTelemetry: which spans there are, and under which others.

An operator asks for them by OpenTelemetry's own variables; unless they do, nothing of it is
imported and nothing is done. Attributes are numbers and names, never what a user wrote, so messages
of exceptions are left out. Whatever runs for a request finds its trace in the context, as log lines
find its notes: nobody hands a tracer on. Knows nothing of HTTP or of models.
"""

import contextvars
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from at2.errors import reason_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span as OtelSpan

logger = logging.getLogger("at2.service")

P = ParamSpec("P")
T = TypeVar("T")

Value = str | bool | int | float | Sequence[str] | None
"""Of an attribute; None is left out."""

_SERVICE = "at2-service"
"""The service's name, where the environment gives none."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"

_CLOSE_SECONDS = 2.0
"""For the last spans to be sent, when the server stops."""


class Span:
    """A part of a request's trace, or nothing where the request has none."""

    def __init__(self, made: "OtelSpan | None" = None) -> None:
        self._made = made
        self._ended = False

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Set attributes."""
        if self._made is not None:
            given = {name: value for name, value in attributes.items() if value is not None}
            self._made.set_attributes(given)

    @property
    def trace_id(self) -> str | None:
        """The id of its trace."""
        return None if self._made is None else f"{self._made.get_span_context().trace_id:032x}"

    def rename(self, name: str) -> None:
        """Change its name."""
        if self._made is not None:
            self._made.update_name(name)

    def event(self, name: str) -> None:
        """Record an event."""
        if self._made is not None:
            self._made.add_event(name)

    def fail(self, kind: str) -> None:
        """Mark it as failed.

        Args:
            kind: of error; no message, which may quote a user.
        """
        if self._made is not None:
            from opentelemetry.trace import StatusCode

            self.set({"error.type": kind})
            self._made.set_status(StatusCode.ERROR)

    def end(self) -> None:
        """End it. Only the first call counts."""
        if self._made is not None and not self._ended:
            self._ended = True
            self._made.end()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make it the parent of what begins in the block, on this thread or in a task."""
        if self._made is None:
            yield
            return
        from opentelemetry.trace import use_span

        with use_span(self._made, record_exception=False, set_status_on_exception=False):
            yield


class Traces:
    """Where spans go.

    Args:
        provider: makes and sends them.
    """

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import propagate, trace

        self._api = trace
        self._propagate = propagate
        self._provider = provider
        self._tracer = provider.get_tracer("at2")

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """The span of a request, under the caller's if the headers name one; all that begins in
        the block belongs to it."""
        parent = self._propagate.extract(headers)
        made = self._tracer.start_span(name, parent, kind=self._api.SpanKind.SERVER)
        token = _current.set(self)
        try:
            with _ended(Span(made)) as span:
                yield span
        finally:
            _current.reset(token)

    def begin(self, name: str) -> Span:
        """A span under the one that is active."""
        return Span(self._tracer.start_span(name))

    def current(self) -> Span:
        """The span that is active."""
        return Span(self._api.get_current_span())

    def headers(self) -> dict[str, str]:
        """See the function of this name."""
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier)
        return carrier

    def close(self) -> None:
        """Send what is left, for a short time."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)


_current: ContextVar[Traces | None] = ContextVar("at2_traces", default=None)


@contextmanager
def _ended(span: Span) -> Iterator[Span]:
    """Make a span active in the block and end it there, as failed if the block raises."""
    try:
        with span.active():
            yield span
    except Exception as error:
        span.fail(type(error).__qualname__)
        raise
    finally:
        span.end()


def begin(name: str, attributes: Mapping[str, Value] | None = None) -> Span:
    """A span under the active one; whoever begins it ends it."""
    traces = _current.get()
    span = Span() if traces is None else traces.begin(name)
    span.set(attributes or {})
    return span


@contextmanager
def span(name: str, attributes: Mapping[str, Value] | None = None) -> Iterator[Span]:
    """A span under the active one, for as long as the block runs."""
    with _ended(begin(name, attributes)) as begun:
        yield begun


def note(attributes: Mapping[str, Value]) -> None:
    """Set attributes of the active span."""
    traces = _current.get()
    if traces is not None:
        traces.current().set(attributes)


def headers() -> dict[str, str]:
    """What a request to another server carries, so that its spans belong to the active one."""
    traces = _current.get()
    return {} if traces is None else traces.headers()


def bound(work: Callable[P, T]) -> Callable[P, T]:
    """The same function for another thread, with the trace and the log notes of the request."""
    context = contextvars.copy_context()

    def in_context(*args: P.args, **kwargs: P.kwargs) -> T:
        return context.run(work, *args, **kwargs)

    return in_context


def open_traces(version: str) -> Traces | None:
    """Where the environment wants traces sent; None for nowhere. What it wants and is not here, or
    cannot be, is logged: a server does not stay down for that."""
    if not _wanted():
        return None
    protocol = next(filter(None, map(os.environ.get, _PROTOCOLS)), _PROTOCOL)
    if protocol != _PROTOCOL:
        logger.warning("no traces are sent: %s is asked for, here is %s only", protocol, _PROTOCOL)
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        logger.warning("no traces are sent: install at2-service[otel] (%s)", error)
        return None
    own: dict[str, Any] = {"service.name": _SERVICE, "service.version": version}
    try:
        resource = Resource.create(own | dict(OTELResourceDetector().detect().attributes))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return Traces(provider)
    except (ValueError, OSError) as error:  # a value of a variable, a file that one names
        logger.warning("no traces are sent: %s", reason_of(error))
        return None


def _wanted() -> bool:
    """Whether the environment asks for traces: a collector is named, or the exporter that sends to
    the usual one."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    named = os.environ.get("OTEL_TRACES_EXPORTER", "").lower().split(",")
    exporters = {name.strip() for name in named} - {""}
    return "otlp" in exporters or (not exporters and any(map(os.environ.get, _ENDPOINTS)))
