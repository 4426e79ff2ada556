"""A collector of OpenTelemetry's: takes spans over OTLP/HTTP and keeps them."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_LIMIT_S = 60.0


@dataclass(frozen=True)
class Sent:
    """A span that was sent; ids in hexadecimal digits, an empty `parent` for none."""

    name: str
    trace: str
    id: str
    parent: str
    attributes: dict[str, Any]
    events: list[str]
    failed: bool
    message: str
    resource: dict[str, Any]


class Collector:
    """What has been sent so far.

    Attributes:
        address: for `OTEL_EXPORTER_OTLP_ENDPOINT`.
        bodies: of all requests, as they came.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.bodies: list[bytes] = []
        self._spans: list[Sent] = []
        self._changed = threading.Condition()

    def take(self, body: bytes) -> None:
        """Keep what one request has."""
        with self._changed:
            self.bodies.append(body)
            self._spans += _spans(ExportTraceServiceRequest.FromString(body))
            self._changed.notify_all()

    def wait(self, wanted: Callable[[Sent], bool]) -> list[Sent]:
        """All spans of the trace of the first span that is wanted, as soon as that is there."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(wanted, self._spans)), _LIMIT_S)
            trace = next(span.trace for span in self._spans if wanted(span))
            return [span for span in self._spans if span.trace == trace]

    @property
    def spans(self) -> list[Sent]:
        """All of them."""
        with self._changed:
            return list(self._spans)


def _spans(request: ExportTraceServiceRequest) -> Iterator[Sent]:
    for of_resource in request.resource_spans:
        for scope in of_resource.scope_spans:
            for span in scope.spans:
                yield Sent(
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    attributes=_attributes(span.attributes),
                    events=[event.name for event in span.events],
                    failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    message=span.status.message,
                    resource=_attributes(of_resource.resource.attributes),
                )


def _attributes(given: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in given}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    found = getattr(value, kind)
    return [_value(one) for one in found.values] if kind == "array_value" else found


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            right = self.path == "/v1/traces"
            if right:
                collector.take(body)
            self.send_response(200 if right else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
