"""Requests that are small and ask for much, on a real server: it answers the others meanwhile."""

import asyncio
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers import hostile, load
from tests.helpers.engines import save_endless_model
from tests.helpers.processes import running_server
from tests.helpers.servers import samples
from tests.helpers.tiny import tiny_server

KEY, OTHER = "a-key-of-sixteen-or-more", "another-key-just-as-long"
ATTACKERS = [f"key-of-an-attacker-{number}" for number in range(3)]
CONTEXT = "Charlotte Bennett lives in Lisbon. Omar Whitfield plays the cello. " * 8
BODY = {"context": CONTEXT, "query": "Where does Charlotte Bennett live?"}
_LIMIT_S = 120
_HELD_UP_S = 20
"""Longer than a busy machine takes for a reply from a server that does not stand still."""
_MB = 2**20

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[int, str]]:
    """A server with some keys: its process and its address."""
    with tiny_server(AT2_API_KEYS=",".join([KEY, OTHER, *ATTACKERS])) as (process, address):
        yield process.pid, address


def _client(address: str, key: str = KEY) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=address, timeout=_LIMIT_S, headers=headers)


def _most_memory(process_id: int) -> int:
    """The most memory that a process has had so far, in bytes."""
    for line in Path(f"/proc/{process_id}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def _objects(count: int) -> str:
    return "[" + ",".join(["{}"] * count) + "]"


SENSELESS = {
    "spans": '{"id": "x", "spans": ' + _objects(500_000) + "}",
    "documents": '{"query": "q", "response": "r", "documents": ' + _objects(500_000) + "}",
    "messages": json.dumps(BODY)[:-1] + ', "response": "r", "messages": ' + _objects(500_000) + "}",
    "numbers": '{"id": "x", "spans": [' + "1," * 1_500_000 + "1]}",
    "fields": "{" + ",".join(f'"f{n}":1' for n in range(200_000)) + "}",
    "fields of one document": '{"query": "q", "response": "r", "documents": [{'
    + ",".join(f'"f{n}":1' for n in range(200_000))
    + "}]}",
    "texts": '{"id": "x", "estimator": [' + '"",' * 1_000_000 + '""]}',
    "nesting": '{"id": ' + "[" * 4_000_000,
    "small": '{"id": "x", "spans": ' + _objects(20_000) + "}",
}


@linux_only
@pytest.mark.parametrize("body", SENSELESS.values(), ids=SENSELESS)
def test_senseless_bodies_hold_up_nobody(running: tuple[int, str], body: str) -> None:
    process_id, address = running
    with _client(address) as client, _client(address) as other:
        assert client.get("/ready").status_code == 200
        before = _most_memory(process_id)
        answered = threading.Event()

        def send() -> httpx.Response:
            try:
                headers = {"Content-Type": "application/json"}
                return client.post("/attribute", content=body, headers=headers)
            finally:
                answered.set()

        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(send)
            while not answered.is_set():  # whenever it is read, somebody asks for this
                assert other.get("/health", timeout=_HELD_UP_S).status_code == 200
            response = sent.result()
        assert response.status_code == 400 and len(response.content) < 1000
        assert _most_memory(process_id) - before < 100 * _MB


def _generated(client: httpx.Client) -> dict[str, Any]:
    reply: dict[str, Any] = (
        client.post("/generate", json=BODY | {"max_new_tokens": 24}).raise_for_status().json()
    )
    return reply


def test_a_reply_of_megabytes_is_refused_by_its_numbers(running: tuple[int, str]) -> None:
    with _client(running[1]) as client:
        generation = _generated(client)
        span = {"start": 0, "end": len(generation["response"])}
        question = {"id": generation["id"], "source_type": "token", "top_k": 10_000}
        one = client.post("/attribute", json=question | {"spans": [span]}).raise_for_status().json()
        sources = len(one["attributions"][0]["sources"])
        response = client.post("/attribute", json=question | {"spans": [span] * 256})
        assert response.status_code == 400
        message = response.json()["error"]["message"]
        for number in (256, sources, 256 * sources, 20_000):
            assert str(number) in message
        response = client.post("/attribute", json=question | {"spans": [span] * 256, "top_k": 70})
        assert response.status_code == 200 and len(response.json()["attributions"]) == 256


def test_equal_spans_are_answered_alike_and_cost_as_one(running: tuple[int, str]) -> None:
    with _client(running[1]) as client:
        generation = _generated(client)
        length = len(generation["response"])
        span = {"start": 0, "end": length // 2}
        other = {"start": length // 2, "end": length}
        question = {"id": generation["id"], "method": "leave_one_out"}
        question["verify"] = True
        two = client.post("/attribute", json=question | {"spans": [span, other]}).json()
        first, second = two["attributions"]
        # 200 different ones would take far more passes than there may be
        many = client.post("/attribute", json=question | {"spans": [span] * 100 + [other] * 100})
        assert many.status_code == 200, many.text
        assert many.json()["attributions"] == [first] * 100 + [second] * 100


def test_a_record_is_there_for_the_key_that_made_it_only(running: tuple[int, str]) -> None:
    with _client(running[1]) as mine, _client(running[1], OTHER) as theirs:
        generation = _generated(mine)
        path = f"/generations/{generation['id']}"
        question = {"id": generation["id"]}
        for response in (
            theirs.get(path),
            theirs.get(f"{path}/prompt"),
            theirs.get(f"{path}/export.html"),
            theirs.post("/attribute", json=question),
            theirs.delete(path),
        ):
            assert response.status_code == 404
            assert response.json()["error"]["code"] == "unknown_id"
        assert mine.get(path).json() == generation
        assert mine.post("/attribute", json=question).status_code == 200
        assert mine.delete(path).status_code == 204


def test_thousands_of_turns_are_refused_by_their_tokens(running: tuple[int, str]) -> None:
    """Nothing is timed: in a time that grows with their square they would take minutes, and get
    the status of what takes too long."""
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 5000
    asked = BODY | {"messages": turns, "max_new_tokens": 4}
    with (
        _client(running[1]) as client,
        _client(running[1], OTHER) as other,
        ThreadPoolExecutor(4) as pool,
    ):
        sent = [pool.submit(client.post, "/generate", json=asked) for _ in range(4)]
        _generated(other)
        for response in (one.result() for one in sent):
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "context_length_exceeded"


async def _at_once(address: str, count: int) -> list[int]:
    """The statuses of so many generations that are asked for in one moment."""
    host, port = address.removeprefix("http://").split(":")
    content = json.dumps(BODY).encode()
    request = (
        f"POST /generate HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    ).encode() + content
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    for _, writer in opened:
        writer.write(request)
    lines = await asyncio.gather(*(reader.readline() for reader, _ in opened))
    for _, writer in opened:
        writer.close()
    return [int(line.split()[1]) for line in lines]


def test_what_is_too_many_is_refused_before_it_is_read(tmp_path: Path) -> None:
    save_endless_model(tmp_path, context_tokens=8000)
    limits = {"AT2_MAX_REQUESTS": "1", "AT2_MAX_NEW_TOKENS": "7000"}
    with (
        running_server(AT2_MODEL=str(tmp_path), **limits) as (_, address),
        ExitStack() as stack,
    ):
        client = stack.enter_context(httpx.Client(base_url=address, timeout=_LIMIT_S))
        endless = {"context": "A.", "query": "B?", "max_new_tokens": 7000, "stream": True}
        stream = stack.enter_context(client.stream("POST", "/generate", json=endless))
        lines = stream.iter_lines()  # kept, or the stream would be closed
        next(lines)
        for content in (b"{", json.dumps(BODY).encode(), SENSELESS["spans"].encode()):
            response = httpx.post(
                f"{address}/attribute",
                content=content,
                headers={"Content-Type": "application/json"},
                timeout=_LIMIT_S,
            )
            assert response.status_code == 429
            assert response.json()["error"]["code"] == "server_busy"
            assert int(response.headers["Retry-After"]) >= 1
        assert asyncio.run(_at_once(address, 436)) == [429] * 436
        assert client.get("/health").status_code == 200
        found = samples(client.get("/metrics").text)
        assert sum(count for (name, _), count in found.items() if "refused" in name) == 439


def test_attackers_change_no_reply_of_others(running: tuple[int, str]) -> None:
    """Each attacker goes once through everything, while others call as ever."""
    _, address = running
    jobs, keys = load.mixed_jobs(64), [KEY, OTHER]
    expected = load.send_alone(address, jobs, keys)
    seen = Counter[int]()
    attack = hostile.attack(address, ATTACKERS, seen, rounds=1, connections=20)
    with ThreadPoolExecutor(1) as pool, _client(address) as client:
        attacking = pool.submit(asyncio.run, attack)
        while not attacking.done():
            outcomes = load.send(address, jobs, concurrency=8, keys=keys)
            assert not load.count_wrong(jobs, outcomes, expected)
            assert client.get("/health", timeout=_HELD_UP_S).status_code == 200
        attacking.result()
        assert {200, 400, 404} <= set(seen) <= {200, 400, 404, 429}
        while "at2_requests_running 0.0" not in client.get("/metrics").text:
            pass  # what nobody waits for any more ends
