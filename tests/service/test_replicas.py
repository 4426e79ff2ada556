"""Replicas with one Redis, each a process of its own: any of them answers any id."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.helpers.redis_server import PASSWORD, RedisServer, running_redis
from tests.helpers.servers import samples
from tests.helpers.tiny import tiny_server

CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello."
)
BODY = {"context": CONTEXT, "query": "Where does Charlotte Bennett live?"}
KEYS = {"ann": "ann-has-this-key", "bob": "bob-has-that-key"}

_LIMIT_S = 120


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def settings(redis: RedisServer) -> dict[str, str]:
    return {"AT2_STORE": redis.url, "AT2_API_KEYS": ",".join(KEYS.values())}


@pytest.fixture(scope="module")
def address(settings: dict[str, str]) -> Iterator[str]:
    """One replica, which lives as long as the module."""
    with tiny_server(**settings) as (_, address):
        yield address


@pytest.fixture()
def other(address: str) -> Iterator[httpx.Client]:
    with _client(address) as client:
        yield client


def _client(address: str, name: str = "ann") -> httpx.Client:
    headers = {"Authorization": f"Bearer {KEYS[name]}"}
    return httpx.Client(base_url=address, timeout=_LIMIT_S, headers=headers)


def _passes(client: httpx.Client) -> float:
    return samples(client.get("/metrics").text)["at2_scoring_passes_total", ()]


def _until_shared(redis: RedisServer, *ids: str) -> None:
    """Scores are written behind the reply."""
    with redis.client() as client:
        while not all(client.keys(f"*scores*{generation_id}*") for generation_id in ids):
            time.sleep(0.01)


def _done(stream: httpx.Response) -> dict[str, Any]:
    """The generation at the end of a stream."""
    events = [line.removeprefix("data: ") for line in stream.iter_lines() if line[:1] == "d"]
    assert events[-1] == "[DONE]"
    generation: dict[str, Any] = json.loads(events[-2])["generation"]
    return generation


def _error(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def test_what_a_killed_replica_wrote_another_attributes_without_a_pass(
    redis: RedisServer, settings: dict[str, str], other: httpx.Client, address: str
) -> None:
    with tiny_server(**settings) as (process, its_address):
        with _client(its_address) as one:
            written = one.post("/generate", json=BODY).json()
            with one.stream("POST", "/generate", json=BODY | {"stream": True}) as response:
                streamed = _done(response)
            here = one.post("/attribute", json={"id": written["id"]}).json()
            on_one = other.post("/generate", json=BODY).json()
            assert one.get(f"/generations/{on_one['id']}").json() == on_one
            assert one.delete(f"/generations/{on_one['id']}").status_code == 204
        _until_shared(redis, written["id"], streamed["id"])
        process.kill()
        process.wait()
        assert other.get(f"/generations/{on_one['id']}").status_code == 404
        before = _passes(other)
        for level in ("sentence", "word"):
            body = {"id": written["id"], "source_type": level}
            assert other.post("/attribute", json=body).status_code == 200
        assert other.post("/attribute", json={"id": written["id"]}).json() == here
        assert other.post("/attribute", json={"id": streamed["id"]}).status_code == 200
        assert _passes(other) == before
        assert other.get(f"/generations/{streamed['id']}").json() == streamed
        with _client(address, "bob") as bob:
            assert bob.post("/attribute", json={"id": written["id"]}).status_code == 404
            assert bob.delete(f"/generations/{written['id']}").status_code == 404
        assert other.delete(f"/generations/{written['id']}").status_code == 204
        assert other.post("/attribute", json={"id": written["id"]}).status_code == 404


def test_another_model_is_told_from_this_one(redis: RedisServer, other: httpx.Client) -> None:
    generation_id = other.post("/generate", json=BODY).json()["id"]
    with redis.client() as client:
        (key,) = client.keys(f"*record*{generation_id}*")
        value = client.get(key)
        assert isinstance(value, bytes)
        foreign = value.replace(b'"model":"', b'"model":"other-').replace(b"gen-", b"other-")
        client.set(key.replace(b"gen-", b"other-"), foreign)
    foreign_id = generation_id.replace("gen-", "other-")
    response = other.post("/attribute", json={"id": foreign_id})
    assert (response.status_code, _error(response)["code"]) == (409, "other_model")
    assert other.delete(f"/generations/{foreign_id}").status_code == 204


def test_a_full_redis_costs_nobody_a_reply(redis: RedisServer, other: httpx.Client) -> None:
    kept = other.post("/generate", json=BODY).json()
    with redis.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 1)
        try:
            reply = other.post("/generate", json=BODY)
            assert (reply.status_code, reply.json()["expires"]) == (200, None)
            assert other.post("/attribute", json={"id": kept["id"]}).status_code == 200
            assert other.get("/ready").status_code == 200
        finally:
            client.config_set("maxmemory", 0)
    assert other.post("/generate", json=BODY).json()["expires"] is not None


def test_the_server_outlives_redis_and_goes_on_with_an_empty_one(
    redis: RedisServer, other: httpx.Client
) -> None:
    kept = other.post("/generate", json=BODY).json()
    redis.stop()
    try:
        calls = [
            other.get(f"/generations/{kept['id']}"),
            other.delete(f"/generations/{kept['id']}"),
            other.post("/attribute", json={"id": kept["id"]}),
        ]
        for response in calls:
            assert response.status_code == 503 and int(response.headers["Retry-After"]) > 0
            error = _error(response)
            assert error["code"] == "store_unavailable"
            assert error["message"] == "the store cannot be used: Redis cannot be reached"
        for path in ("/health", "/ready"):  # it still answers what needs no record
            assert other.get(path).status_code == 200
        reply = other.post("/generate", json=BODY)
        assert (reply.status_code, reply.json()["expires"]) == (200, None)
        stateless = BODY | {"response": "In Lisbon."}
        assert other.post("/attribute", json=stateless).status_code == 200
    finally:
        redis.start()
    assert other.post("/attribute", json={"id": kept["id"]}).status_code == 404
    again = other.post("/generate", json=BODY).json()
    assert other.post("/attribute", json={"id": again["id"]}).status_code == 200


def test_info_names_the_store_and_not_its_password(other: httpx.Client) -> None:
    response = other.get("/info")
    assert response.json()["store"] == {"kind": "redis", "seconds": 86_400}
    assert PASSWORD.split()[1] not in response.text
