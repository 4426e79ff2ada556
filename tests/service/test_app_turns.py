"""A server with a tiny model that never ends, behind a real socket: deadlines, and what its metrics
say of what waits and of what was given up. Its generation stops at a step until it may go on."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.engine import Engine
from tests.helpers.engines import save_endless_model
from tests.helpers.servers import samples, serving, settings

KEY = "key-of-a-test-that-is-long"
CONTEXT_TOKENS = 512
BODY = {"context": "The quick brown fox. The lazy dog.", "query": "who?"}
ENDLESS = BODY | {"max_new_tokens": 300}
SECONDS = 6.0
"""Until the deadline, where that is to be reached."""
STEPS = 10
LIMIT_S = 300


class Steps:
    """Stops generation before a step, counted from when it is told to, until it may go on."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._left = -1
        self.stopped, self._go_on = threading.Event(), threading.Event()
        engine._writer._model.register_forward_pre_hook(self._before)

    def stop_after(self, steps: int) -> None:
        self.stopped.clear()
        self._go_on.clear()
        self._left = steps

    def go_on(self) -> None:
        self._left = -1
        self._go_on.set()

    def _before(self, *_: object) -> None:
        if self._left == 0:
            self.stopped.set()
            self._go_on.wait()
        self._left -= 1


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Steps]]:
    folder = tmp_path_factory.mktemp("model")
    save_endless_model(folder, CONTEXT_TOKENS)
    own = settings(
        model=str(folder),
        device="cpu",
        cache_tokens=CONTEXT_TOKENS,
        request_seconds=LIMIT_S,
        api_keys=KEY,
    )
    engine = Engine(own)
    steps = Steps(engine)
    app = create_app(engine)
    with serving(app, own, app.state.lifecycle) as (address, _):
        try:
            yield address, steps
        finally:
            steps.go_on()


@pytest.fixture()
def client(server: tuple[str, Steps]) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(base_url=server[0], headers=headers, timeout=LIMIT_S) as client:
        yield client


@pytest.fixture()
def steps(server: tuple[str, Steps]) -> Iterator[Steps]:
    yield server[1]
    server[1].go_on()


@pytest.fixture()
def short_of_time(server: tuple[str, Steps]) -> Iterator[None]:
    """A request may take `SECONDS`."""
    limits = server[1].engine.limits
    object.__setattr__(limits, "seconds", SECONDS)
    yield
    object.__setattr__(limits, "seconds", float(LIMIT_S))


def _metrics(client: httpx.Client) -> Callable[[str], float]:
    found = samples(client.get("/metrics").text)

    def total(name: str, **labels: str) -> float:
        return sum(
            value
            for (known, of), value in found.items()
            if known == name and labels.items() <= dict(of).items()
        )

    return total


def _until(true: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(LIMIT_S * 20):
        if true():
            return
        waited.wait(0.05)
    raise AssertionError("it never was")


@pytest.mark.usefixtures("short_of_time")
@pytest.mark.parametrize("stream", [False, True])
def test_what_there_is_at_the_deadline_is_the_reply_and_is_kept(
    client: httpx.Client, steps: Steps, stream: bool
) -> None:
    steps.stop_after(STEPS)
    response = client.post("/generate", json=ENDLESS | {"stream": stream})
    assert response.status_code == 200
    if stream:
        *deltas, done = (
            json.loads(event.removeprefix("data: "))
            for event in response.text.split("\n\n")
            if event.startswith("data: {")
        )
        reply = done["generation"]
        assert "".join(delta["text"] for delta in deltas) == reply["response"]
    else:
        reply = response.json()
    assert reply["finish_reason"] == "deadline"
    assert 0 < reply["usage"]["completion_tokens"] <= STEPS
    steps.go_on()
    assert client.get(f"/generations/{reply['id']}").json() == reply
    asked = {"id": reply["id"], "method": "average_attention"}
    found = client.post("/attribute", json=asked).json()["attributions"]
    assert found[0]["text"] == reply["response"]
    counted = "at2_generation_duration_seconds_count"
    _until(lambda: _metrics(client)(counted, finish_reason="deadline") > 0)


@pytest.mark.usefixtures("short_of_time")
def test_nothing_at_the_deadline_is_an_error_in_or_before_the_stream(
    client: httpx.Client, steps: Steps
) -> None:
    before = _metrics(client)
    steps.stop_after(0)
    response = client.post("/generate", json=ENDLESS)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    events = client.post("/generate", json=ENDLESS | {"stream": True}).text
    assert '"code":"deadline_exceeded"' in events.split("\n\n")[-3]
    assert events.endswith("data: [DONE]\n\n")
    failed = "at2_generations_aborted_total"
    until = before(failed, reason="failed") + 2
    _until(lambda: _metrics(client)(failed, reason="failed") == until)


def test_what_waits_is_counted_and_what_is_given_up_too(client: httpx.Client, steps: Steps) -> None:
    before = _metrics(client)
    steps.stop_after(STEPS)

    def leave(_: int) -> None:
        with (
            httpx.Client(base_url=client.base_url, headers=client.headers) as own,
            own.stream("POST", "/generate", json=ENDLESS | {"stream": True}, timeout=LIMIT_S),
        ):
            left.wait(LIMIT_S)

    left = threading.Event()
    with ThreadPoolExecutor(10) as pool:
        leaving = [pool.submit(leave, number) for number in range(10)]
        try:
            assert steps.stopped.wait(LIMIT_S)
            _until(lambda: _metrics(client)("at2_requests_waiting") > 0)
            told = _metrics(client)
            running = told("at2_requests_running")
            assert running > 0 and running + told("at2_requests_waiting") <= 10
            left.set()
            for each in leaving:
                each.result()
        finally:
            left.set()
    counted = "at2_generations_aborted_total"
    _until(lambda: _metrics(client)(counted) - before(counted) == 10)
    _until(lambda: _metrics(client)("at2_requests_running") == 0)
    after = _metrics(client)
    assert after("at2_requests_waiting") == 0

    def grown(name: str, **labels: str) -> float:
        return after(name, **labels) - before(name, **labels)

    assert grown(counted, reason="gone") > 0
    first = grown("at2_time_to_first_token_seconds_count")
    tokens = grown("at2_generation_tokens_total")
    assert 0 < first <= running
    assert tokens >= first
    assert grown("at2_time_between_tokens_seconds_count") == tokens - first
    assert grown("at2_key_tokens_total", kind="generated") == tokens
    assert grown("at2_key_waiting_seconds_total") > 0


def test_a_reply_without_a_stream_has_a_first_token_too(client: httpx.Client) -> None:
    before = _metrics(client)
    reply: dict[str, Any] = client.post("/generate", json=BODY | {"max_new_tokens": 5}).json()
    after = _metrics(client)  # all of it is counted before the reply is sent
    for name, count in (
        ("at2_time_to_first_token_seconds_count", 1),
        ("at2_time_between_tokens_seconds_count", 4),
        ("at2_generation_tokens_total", 5),
        ("at2_prompt_tokens_total", reply["usage"]["prompt_tokens"]),
    ):
        assert after(name) - before(name) == count


def test_no_key_is_in_the_metrics(client: httpx.Client) -> None:
    text = client.get("/metrics").text
    assert "at2_key_tokens_total" in text and KEY not in text
