"""Traces as a collector gets them: which spans, under which others, and nobody's words."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.engine import Engine
from service.settings import Settings
from service.tracing import open_traces
from tests.helpers.collector import Collector, Sent, collecting
from tests.helpers.generators import StandIn
from tests.helpers.processes import reserved_port
from tests.helpers.servers import serving
from tests.helpers.tiny import tiny_server, tiny_settings

SECRET = "Xanthippe"
CONTEXT = f"{SECRET} works for Halden Freight. {SECRET} lives in Lisbon. Omar plays the cello."
QUERY = f"Where does {SECRET} live?"
BODY = {"context": CONTEXT, "query": QUERY}
CALLER = "b7ad6b7169203331"
_LIMIT_S = 120


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(collector: Collector) -> Iterator[httpx.Client]:
    """A client of a server process that sends its traces."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
        "OTEL_SERVICE_NAME": "answers",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    with (
        tiny_server(**settings) as (_, address),
        httpx.Client(base_url=address, timeout=_LIMIT_S) as client,
    ):
        yield client


def _trace(number: int, sampled: bool = True) -> tuple[str, dict[str, str]]:
    """A caller's trace, and the headers that say so."""
    trace = f"{number:032x}"
    return trace, {"traceparent": f"00-{trace}-{CALLER}-0{int(sampled)}"}


def _of_request(collector: Collector, trace: str) -> dict[str, list[Sent]]:
    """A trace by the names of its spans, once its request has ended."""
    spans = collector.wait(lambda span: span.trace == trace and span.parent == CALLER)
    return {span.name: [one for one in spans if one.name == span.name] for span in spans}


def test_a_generation_hangs_under_its_request_and_that_under_its_caller(
    traced: httpx.Client, collector: Collector
) -> None:
    trace, headers = _trace(1)
    reply = traced.post("/generate", json=BODY, headers=headers | {"X-Request-ID": "order-7"})
    assert reply.headers["X-Request-ID"] == "order-7"
    found = _of_request(collector, trace)
    assert {name: len(spans) for name, spans in found.items()} == {
        "POST /generate": 1,
        "generate": 1,
        "encode": 1,
    }
    request, generate, encode = (
        found[name][0] for name in ("POST /generate", "generate", "encode")
    )
    assert (generate.parent, encode.parent) == (request.id, generate.id)
    record, usage = reply.json(), reply.json()["usage"]
    facts = request.attributes
    assert facts["at2.request_id"] == "order-7" and facts["at2.generation"] == record["id"]
    assert (facts["http.route"], facts["http.response.status_code"]) == ("/generate", 200)
    assert generate.attributes["gen_ai.response.id"] == record["id"]
    assert generate.attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert generate.attributes["gen_ai.response.finish_reasons"] == [record["finish_reason"]]
    assert generate.events == ["first token"]
    assert encode.attributes["at2.prompt_tokens"] == usage["prompt_tokens"]
    assert not any(span.failed for span in (request, generate, encode))
    assert request.resource["service.name"] == "answers"
    assert request.resource["deployment.environment.name"] == "test"


def test_work_on_other_threads_hangs_under_the_request_that_it_is_for(
    traced: httpx.Client, collector: Collector
) -> None:
    def ask(number: int) -> dict[str, list[Sent]]:
        trace, headers = _trace(number)
        body = BODY | {"response": "In Lisbon. Or so.", "split_by": "sentence", "support": True}
        body |= {"query": f"{QUERY} {'Really? ' * (number % 3)}"}
        assert traced.post("/attribute", json=body, headers=headers).status_code == 200
        return _of_request(collector, trace)

    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(ask, range(100, 112)):
            assert {name: len(spans) for name, spans in found.items()} == {
                "POST /attribute": 1,
                "attribute": 1,
                "encode": 1,
                "score": 1,
            }
            (attribute,) = found["attribute"]
            assert attribute.parent == found["POST /attribute"][0].id
            assert found["encode"][0].parent == found["score"][0].parent == attribute.id
            assert attribute.attributes["at2.method"] == "at2"
            assert attribute.attributes["at2.support"] is True
            assert attribute.attributes["at2.scored_tokens"] > 0


def test_a_chat_has_both_and_its_stream_ends_with_its_last_byte(
    traced: httpx.Client, collector: Collector
) -> None:
    trace, headers = _trace(2)
    body = {
        "messages": [{"role": "user", "content": QUERY}],
        "documents": [CONTEXT],
        "stream": True,
        "attribution": {"support": True},
    }
    reply = traced.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.text.endswith("data: [DONE]\n\n")
    found = _of_request(collector, trace)
    (request,) = found["POST /v1/chat/completions"]
    assert found["generate"][0].parent == request.id
    assert {span.parent for span in found["attribute"]} == {request.id}
    (measured,) = [span for span in found["attribute"] if not span.attributes.get("at2.so_far")]
    assert measured.attributes["at2.support"] is True
    assert found["score"][0].parent == measured.id


def test_what_was_not_let_in_or_went_wrong_is_said_without_its_message(
    traced: httpx.Client, collector: Collector
) -> None:
    trace, headers = _trace(3)
    reply = traced.post("/generate", json=BODY | {"max_new_tokens": 10**6}, headers=headers)
    assert reply.status_code == 400
    found = _of_request(collector, trace)
    (generate,), (request,) = found["generate"], found["POST /generate"]
    assert generate.failed and generate.attributes["error.type"] == "InputError"
    assert not request.failed  # the server did nothing wrong
    assert request.attributes["at2.error_type"] == "invalid_request_error"
    assert generate.message == request.message == ""


def test_what_is_not_sampled_and_probes_are_not_sent(
    traced: httpx.Client, collector: Collector
) -> None:
    dropped, headers = _trace(4, sampled=False)
    assert traced.post("/generate", json=BODY, headers=headers).status_code == 200
    for path in ("/health", "/ready", "/metrics"):
        assert traced.get(path).status_code == 200
    trace, headers = _trace(5)
    assert traced.get("/info", headers=headers).status_code == 200
    assert list(_of_request(collector, trace)) == ["GET /info"]
    assert dropped not in {span.trace for span in collector.spans}
    names = {span.name for span in collector.spans}
    assert not names & {"GET /health", "GET /ready", "GET /metrics"}


def test_no_word_of_a_user_is_sent(traced: httpx.Client, collector: Collector) -> None:
    trace, headers = _trace(6)
    traced.post("/generate", json=BODY | {SECRET: SECRET})
    traced.post("/attribute", json=BODY | {"response": "Yes.", "quote": SECRET})
    traced.post("/attribute", json={"id": SECRET})
    traced.request(SECRET.upper(), f"/{SECRET}?{SECRET}={SECRET}", headers={"X-Other": SECRET})
    traced.get(f"/generations/{SECRET}", headers=headers | {"Authorization": f"Bearer {SECRET}"})
    assert set(_of_request(collector, trace)) == {"GET /generations/{generation_id}"}
    assert not any(SECRET.lower().encode() in body.lower() for body in collector.bodies)


def test_the_server_that_writes_gets_the_trace_and_a_dead_collector_stops_nothing(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = StandIn()
    with other.serving() as generator:
        for endpoint in (collector.address, f"http://127.0.0.1:{reserved_port()}"):
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
            own = Settings(**tiny_settings(), host="127.0.0.1", port=0, generator=generator)
            app = create_app(Engine(own))
            with serving(app, own, app.state.lifecycle) as (address, _):
                trace, headers = _trace(7)
                reply = httpx.post(f"{address}/generate", json=BODY, headers=headers)
                assert reply.status_code == 200
    (generate,) = _of_request(collector, trace)["generate"]
    assert other.traceparents[0] == f"00-{trace}-{generate.id}-01"
    assert other.traceparents[1].startswith(f"00-{trace}-")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({}, ""),
        ({"OTEL_SERVICE_NAME": "answers"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "OTEL_SDK_DISABLED": "True"}, ""),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318", "OTEL_TRACES_EXPORTER": "none"}, ""),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "grpc is asked for, here is http/protobuf only",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "9999"},
            "no traces are sent: max_export_batch_size must be",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many"},
            "no traces are sent: OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT must be",
        ),
    ],
)
def test_without_being_asked_for_what_is_here_there_are_none(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    environment: dict[str, str],
    says: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        assert open_traces("1.0") is None
    assert says in caplog.text and bool(caplog.text) == bool(says)


def test_without_being_asked_nothing_is_imported() -> None:
    code = (
        "import sys; from service.tracing import open_traces, span, begin, headers, bound\n"
        "assert open_traces('1.0') is None\n"
        "with span('a', {'b': 1}) as one: one.event('c'); begin('d').end()\n"
        "assert headers() == {} and bound(lambda: 1)() == 1\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]\n"
    )
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_propagator_that_is_not_installed_keeps_no_server_down() -> None:
    code = (
        "import logging; from service.tracing import open_traces, span\n"
        "logging.basicConfig()\n"
        "assert open_traces('1.0') is None\n"
        "with span('a'): pass\n"
    )
    asked = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_PROPAGATORS": "tracecontext,b3"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | asked, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "no traces are sent: Propagator b3 not found" in done.stderr
