"""What an operator sees: log lines, metrics, and a stop that loses nothing."""

import io
import json
import logging
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from service import logs
from service.engine.accounts import Account
from service.metrics import Metrics
from service.server import Server
from tests.helpers.servers import SECRET, logged, samples, serving, settings, small_app

OTHER_SECRET = "\N{SNOWMAN} in a message"
LIMIT_S = 60
DOCS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


@pytest.fixture()
def log() -> Iterator[io.StringIO]:
    """What is logged during the test, in the format that the test configures."""
    with logged("info") as stream:
        yield stream


@pytest.fixture()
def app() -> FastAPI:
    return small_app(settings())


@pytest.fixture()
def running(app: FastAPI, log: io.StringIO) -> Iterator[tuple[str, Server]]:
    with serving(app, settings(shutdown_seconds=60), app.state.lifecycle) as running:
        yield running


def _lines(log: io.StringIO, count: int, logger: str = "at2.access") -> list[dict[str, Any]]:
    """So many lines of a logger, as soon as they are there: a line follows its reply."""
    waited = threading.Event()
    for _ in range(600):
        lines = [json.loads(line) for line in log.getvalue().splitlines(True) if line[-1] == "\n"]
        lines = [line for line in lines if line["logger"] == logger]
        if len(lines) >= count:
            break
        waited.wait(0.02)
    assert len(lines) == count
    return lines


# -- logs ----------------------------------------------------------------------------------------


def test_each_request_leaves_one_line_of_json(
    running: tuple[str, Server], log: io.StringIO
) -> None:
    address, _ = running
    reply = httpx.post(
        f"{address}/echo/gen-17?x={SECRET}",
        content=SECRET,
        headers={"X-Request-ID": "r-1"},
        timeout=LIMIT_S,
    )
    assert reply.status_code == 200
    (line,) = _lines(log, 1)
    assert line["request_id"] == "r-1"
    assert (line["method"], line["route"], line["status"]) == ("POST", "/echo/{name}", 200)
    assert line["size"] == len(SECRET)  # what the route noted
    assert line["duration_ms"] >= 0
    assert line["client"] == "127.0.0.1"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
    assert "gen-17" not in log.getvalue()


def test_errors_are_named_in_the_line(running: tuple[str, Server], log: io.StringIO) -> None:
    address, _ = running
    httpx.get(f"{address}/refuse", timeout=LIMIT_S)
    (line,) = _lines(log, 1)
    assert line["error_type"] == "invalid_request_error"
    assert line["error_code"] == "invalid_value"


@pytest.mark.parametrize("path", ["/bug", "/broken-stream"])
def test_a_bug_is_logged_with_its_stack_but_without_user_text(
    running: tuple[str, Server], log: io.StringIO, path: str
) -> None:
    address, _ = running
    try:
        httpx.get(f"{address}{path}", timeout=LIMIT_S)
    except httpx.RemoteProtocolError:
        assert path == "/broken-stream"  # cut off: a client cannot take it for the whole
    else:
        assert path == "/bug"
    (line, access) = _lines(log, 2)
    assert "servers.py" in line["exception"] and line["exception"].endswith("KeyError")
    assert line["request_id"] == access["request_id"]
    assert access["status"] == (500 if path == "/bug" else 200)
    assert SECRET not in log.getvalue()


def test_probes_leave_no_line(running: tuple[str, Server], log: io.StringIO) -> None:
    address, _ = running
    for path in ("/health", "/ready", "/metrics", "/refuse"):
        assert httpx.get(f"{address}{path}", timeout=LIMIT_S).status_code in (200, 400)
    (line,) = _lines(log, 1)
    assert line["route"] == "/refuse"


def test_user_text_is_logged_only_where_asked_for(log: io.StringIO) -> None:
    own = settings(log_text=True)
    app = small_app(own)
    with serving(app, own, app.state.lifecycle) as (address, _):
        httpx.post(f"{address}/echo/a", content=SECRET, timeout=LIMIT_S)
    (line,) = _lines(log, 1)
    assert line["query"] == SECRET


def _formatted(formatter: logging.Formatter, error: Exception) -> str:
    try:
        raise ValueError(OTHER_SECRET) from error
    except ValueError as outer:
        exc_info = (type(outer), outer, outer.__traceback__)
    record = logging.LogRecord("at2", logging.ERROR, "", 0, "line %d\n%s", (1, "x"), exc_info)
    record.facts = {"a": 1, "b": None}
    return formatter.format(record)


def test_both_formats_show_causes_and_hide_what_they_may_quote() -> None:
    for error, shown in [
        (KeyError(SECRET), False),
        (UnicodeError(SECRET), False),
        (OSError(28, "No space left on device"), True),
        (RuntimeError("CUDA error"), True),
    ]:
        for formatter in (logs.JsonFormatter, logs.TextFormatter):
            hiding = _formatted(formatter(log_text=False), error)
            assert type(error).__name__ in hiding and "ValueError" in hiding
            assert OTHER_SECRET not in hiding and SECRET not in hiding
            assert (str(error.args[-1]) in hiding) is shown
            telling = _formatted(formatter(log_text=True), error)
            assert OTHER_SECRET in telling and str(error.args[-1]) in telling


def test_a_message_cannot_forge_a_line() -> None:
    first, *stack = _formatted(logs.TextFormatter(log_text=False), OSError("x")).splitlines()
    assert first.endswith("line 1\N{REPLACEMENT CHARACTER}x a=1")
    assert all(line.startswith(" ") or "Error" in line or not line for line in stack)
    assert len(_formatted(logs.JsonFormatter(log_text=False), OSError("x")).splitlines()) == 1


@pytest.mark.parametrize(("terminal", "is_json"), [(True, False), (False, True)])
def test_by_default_a_terminal_gets_text_and_a_collector_json(
    log: io.StringIO, terminal: bool, is_json: bool
) -> None:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    logs.configure(level="info", stream=stream)
    logging.getLogger("at2.service").info("ready")
    logging.getLogger("transformers").info("chatter")
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().startswith("{") is is_json


def test_what_repeats_is_written_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    once = logs.OncePerMinute(60.0)

    def written(
        message: str, *values: object, level: int = logging.WARNING
    ) -> dict[str, Any] | None:
        record = logging.LogRecord("at2", level, "", 0, message, values, None)
        return getattr(record, "facts", {}) if once.filter(record) else None

    assert written("lost %s", 1) == {} and written("lost %s", 2) is None
    assert written("found %s", 1) == {}
    assert [written("request", level=logging.INFO) for _ in range(3)] == [{}] * 3
    now += 59
    assert written("lost %s", 3) is None
    now += 1
    assert written("lost %s", 4) == {"left_out": 2}
    assert written("lost %s", 5) is None
    now += 61
    assert written("lost %s", 6) == {"left_out": 1}


def test_different_stacks_are_different_errors() -> None:
    once = logs.OncePerMinute()

    def written(raising: Callable[[], object]) -> bool:
        try:
            raising()
        except Exception as error:
            exc_info = (type(error), error, error.__traceback__)
        return once.filter(logging.LogRecord("at2", 40, "", 0, "unexpected", (), exc_info))

    first, second = (lambda: {}[1]), (lambda: [][1])
    assert [written(raising) for raising in (first, second, first)] == [True, True, False]


# -- metrics -------------------------------------------------------------------------------------


def test_requests_and_errors_are_counted_by_route(running: tuple[str, Server]) -> None:
    address, _ = running
    for name in ("a", "b", "c"):
        httpx.post(f"{address}/echo/{name}", content="x", timeout=LIMIT_S)
    httpx.get(f"{address}/refuse", timeout=LIMIT_S)
    httpx.get(f"{address}/wp-admin", timeout=LIMIT_S)
    httpx.get(f"{address}/wp-login", timeout=LIMIT_S)
    httpx.request("BREW", f"{address}/refuse", timeout=LIMIT_S)
    for path in ("/health", "/ready"):
        httpx.get(f"{address}{path}", timeout=LIMIT_S)
    reply = httpx.get(f"{address}/metrics", timeout=LIMIT_S)
    assert reply.headers["Content-Type"].startswith("text/plain")
    found = samples(reply.text)
    requests = {
        tuple(value for _, value in labels): count
        for (name, labels), count in found.items()
        if name == "at2_requests_total"
    }
    assert requests == {
        ("POST", "/echo/{name}", "200"): 3,
        ("GET", "/refuse", "400"): 1,
        ("GET", "other", "404"): 2,
        ("other", "/refuse", "405"): 1,
    }
    code = (("code", "invalid_value"), ("type", "invalid_request_error"))
    assert found["at2_errors_total", code] == 1
    route = (("method", "POST"), ("route", "/echo/{name}"))
    assert found["at2_request_duration_seconds_count", route] == 3


def test_what_the_engine_does_is_told_under_the_usual_names() -> None:
    metrics = Metrics(version="1.2", model="m")
    metrics.observe_first_token(0.03, prompt_tokens=82)
    metrics.observe_tokens(1, seconds=None)
    metrics.observe_tokens(15, seconds=0.3)
    for _ in range(2):
        metrics.observe_generation(seconds=0.4, finish_reason="stop")
    metrics.observe_abort(reason="gone")
    metrics.observe_attribution(method="at2", seconds=0.001)
    waiting = [3.0]
    metrics.watch(
        running=lambda: 2.0,
        waiting=lambda: waiting[0],
        cache_usage=lambda: 0.25,
        scoring_passes=lambda: 7,
        accounts=lambda: {"k1": Account(3, 4, 5, 0.5, 6)},
    )
    waiting[0] = 5.0
    text, _ = metrics.exposition()
    found = samples(text.decode())
    assert found["at2_info", (("model", "m"), ("version", "1.2"))] == 1
    assert found["at2_prompt_tokens_total", ()] == 82
    assert found["at2_generation_tokens_total", ()] == 16
    assert found["at2_time_between_tokens_seconds_sum", ()] == pytest.approx(0.02)
    assert found["at2_generations_aborted_total", (("reason", "gone"),)] == 1
    for kind, count in (("prompt", 3), ("generated", 4), ("scored", 5)):
        assert found["at2_key_tokens_total", (("key", "k1"), ("kind", kind))] == count
    assert found["at2_key_waiting_seconds_total", (("key", "k1"),)] == 0.5
    assert found["at2_key_refused_total", (("key", "k1"),)] == 6
    assert found["at2_time_to_first_token_seconds_sum", ()] == 0.03
    assert found["at2_time_to_first_token_seconds_bucket", (("le", "0.02"),)] == 0
    assert found["at2_time_to_first_token_seconds_bucket", (("le", "0.04"),)] == 1
    stopped = (("finish_reason", "stop"),)
    assert found["at2_generation_duration_seconds_sum", stopped] == 0.8
    assert found["at2_attribution_duration_seconds_count", (("method", "at2"),)] == 1
    assert found["at2_requests_running", ()] == 2
    assert found["at2_requests_waiting", ()] == 5
    assert found["at2_cache_usage", ()] == 0.25
    assert found["at2_scoring_passes_total", ()] == 7


def test_two_applications_count_for_themselves() -> None:
    first, second = Metrics(version="1", model="a"), Metrics(version="1", model="b")
    first.observe_first_token(1.0, prompt_tokens=1)
    assert (
        samples(second.exposition()[0].decode())["at2_time_to_first_token_seconds_count", ()] == 0
    )


def test_openmetrics_is_spoken_where_asked_for() -> None:
    text, content_type = Metrics(version="1", model="m").exposition("application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_the_documentation_has_every_metric_and_no_other() -> None:
    text, _ = Metrics(version="1", model="m").exposition()
    families = {family.name for family in text_string_to_metric_families(text.decode())}
    own = {name.removesuffix("_created") for name in families if name.startswith("at2_")}
    documented = set(re.findall(r"^\| `(at2_\w+)`", DOCS, flags=re.MULTILINE))
    assert {name.removesuffix("_total") for name in documented} == own


# -- stop ----------------------------------------------------------------------------------------


def test_a_stop_lets_what_runs_finish_and_takes_nothing_new(
    app: FastAPI, running: tuple[str, Server], log: io.StringIO
) -> None:
    address, server = running
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(httpx.post, f"{address}/wait", timeout=LIMIT_S)
        try:
            assert app.state.waiting.wait(LIMIT_S)
            server.handle_exit(signal.SIGTERM, None)

            ready = httpx.get(f"{address}/ready", timeout=LIMIT_S)
            assert ready.status_code == 503
            assert ready.json()["error"]["code"] == "server_stopping"
            refused = httpx.post(f"{address}/echo/a", content="x", timeout=LIMIT_S)
            assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
            health = httpx.get(f"{address}/health", timeout=LIMIT_S)
            assert health.status_code == 200  # alive, so not to be killed
            assert httpx.get(f"{address}/metrics", timeout=LIMIT_S).status_code == 200
            assert not under_way.done()
        finally:
            server.servers[0].get_loop().call_soon_threadsafe(app.state.gate.set)
        assert under_way.result().json() == "done"
    _wait_until_closed(address)
    assert "cancelled" not in log.getvalue()


def test_what_outlives_the_limit_is_cut_off_and_logged(
    log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.server._CLOSE_SECONDS", LIMIT_S)  # then it would end this process
    own = settings(shutdown_seconds=0)
    app = small_app(own)
    with (
        serving(app, own, app.state.lifecycle) as (address, server),
        ThreadPoolExecutor(1) as pool,
    ):
        under_way = pool.submit(httpx.post, f"{address}/wait", timeout=LIMIT_S)
        assert app.state.waiting.wait(LIMIT_S)
        server.handle_exit(signal.SIGTERM, None)
        outcome = under_way.exception(60)
        assert isinstance(outcome, httpx.TransportError) or (under_way.result().status_code >= 500)
        _wait_until_closed(address)
    messages = [line["message"] for line in _lines(log, 2, "at2.service")]
    assert messages == ["stopping", "requests cancelled"]
    assert [line.get("cancelled") for line in _lines(log, 1)] == [True]


def test_an_idle_server_stops_at_once(running: tuple[str, Server]) -> None:
    address, server = running
    with httpx.Client(timeout=LIMIT_S) as client:  # an idle connection is no work
        assert client.get(f"{address}/health").status_code == 200
        server.handle_exit(signal.SIGTERM, None)
        _wait_until_closed(address)


def test_a_stopped_server_leaves_nothing_that_could_end_the_process() -> None:
    own = settings()
    app = small_app(own)
    before = set(threading.enumerate())
    with serving(app, own, app.state.lifecycle):
        pass
    left = set(threading.enumerate()) - before
    timers = [thread for thread in left if isinstance(thread, threading.Timer)]
    assert all(timer.finished.is_set() for timer in timers)  # cancelled, though it may not be gone


def _wait_until_closed(address: str) -> None:
    """Wait until the port is closed."""
    waited = threading.Event()
    for _ in range(600):
        try:
            httpx.get(f"{address}/health", timeout=LIMIT_S)
        except httpx.TransportError:
            return
        waited.wait(0.05)
    pytest.fail("the server still listens")
