"""A streamed reply: events in order, texts that join to the response, an end that frees work."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import pytest
from starlette.types import Message

from service import logs
from service.caller import Caller
from service.stream import EventStream

CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello."
)
BODY = {"context": CONTEXT, "query": "Where does Charlotte Bennett live?"}
ENDLESS = {"temperature": 5.0, "seed": 1, "max_new_tokens": 1000}
_LIMIT_S = 60


def _events(client: httpx.Client, body: dict[str, Any]) -> list[str]:
    with client.stream("POST", "/generate", json=body | {"stream": True}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join(response.iter_text())
    assert text.endswith("\n\n")
    lines = text.removesuffix("\n\n").split("\n\n")
    assert all(line.startswith(("data: ", ":")) for line in lines)
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def _metric(client: httpx.Client, name: str) -> float:
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return sum(map(float, found))


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"max_new_tokens": 2},
        {"source_type": "word"},
        {"temperature": 4.0, "seed": 5, "max_new_tokens": 40},
        {"documents": [{"id": "a", "text": "Omar Whitfield plays the cello. 😀"}], "context": None},
    ],
)
def test_texts_join_to_the_response_and_the_last_event_is_the_plain_reply(
    client: httpx.Client, change: dict[str, Any]
) -> None:
    body = {key: value for key, value in (BODY | change).items() if value is not None}
    *events, end = _events(client, body)
    assert end == "[DONE]"
    *deltas, done = map(json.loads, events)
    assert len(deltas) >= 2
    assert all(set(delta) == {"type", "text"} and delta["type"] == "delta" for delta in deltas)
    assert set(done) == {"type", "generation"} and done["type"] == "done"
    generation = done["generation"]
    assert "".join(delta["text"] for delta in deltas) == generation["response"]
    plain = client.post("/generate", json=body).json()
    own = ("id", "created", "expires")
    assert {k: v for k, v in generation.items() if k not in own} == {
        k: v for k, v in plain.items() if k not in own
    }
    assert client.get(f"/generations/{generation['id']}").json() == generation


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"query": ""}, 400, "string_too_short"),
        ({"context": "The cat sat. " * 3000}, 400, "context_length_exceeded"),
        ({"max_new_tokens": 10**6}, 400, "invalid_value"),
    ],
)
def test_what_is_refused_is_refused_before_the_stream(
    client: httpx.Client, change: dict[str, Any], status: int, code: str
) -> None:
    response = client.post("/generate", json=BODY | change | {"stream": True})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_work_at_once(server: str, stream: bool) -> None:
    with httpx.Client(base_url=server, timeout=_LIMIT_S) as watcher:
        finished = _metric(watcher, "at2_generation_duration_seconds_count")
        leaving = HTTPConnection(server.removeprefix("http://"), timeout=_LIMIT_S)
        with closing(leaving):
            body = json.dumps(BODY | ENDLESS | {"stream": stream})
            leaving.request("POST", "/generate", body, {"Content-Type": "application/json"})
            if stream:
                response = leaving.getresponse()
                assert response.readline().startswith(b"data: ")
            _until(lambda: _metric(watcher, "at2_requests_running") == 1)
        _until(lambda: _metric(watcher, "at2_requests_running") == 0)
        # it was given up, not finished
        assert _metric(watcher, "at2_generation_duration_seconds_count") == finished
        assert watcher.post("/generate", json=BODY).status_code == 200


def test_a_stream_that_nobody_reads_is_closed_and_noted() -> None:
    sent: list[Message] = []
    closed: list[bool] = []
    first_sent = asyncio.Event()

    async def events() -> AsyncIterator[Any]:
        yield 1
        await asyncio.Event().wait()

    def close() -> None:
        closed.append(True)

    async def receive() -> Message:
        await first_sent.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            first_sent.set()

    async def main() -> None:
        with logs.request_notes("r") as notes:
            stream = EventStream(events(), Caller(), close)
            await asyncio.wait_for(stream({}, receive, send), _LIMIT_S)
            assert notes.facts == {"client_gone": True}

    asyncio.run(main())
    assert closed == [True]
    assert [message.get("body") for message in sent] == [None, b"data: 1\n\n"]
