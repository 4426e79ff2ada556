"""The store in Redis: what replicas share, and what becomes of calls while it is away or full."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from service.failures import DamagedRecordError, StoreError
from service.records import RecordStore, ScoreStore, open_store
from service.records import redis as module
from service.records.redis import RedisStore
from tests.helpers.records import HOUR, generation
from tests.helpers.redis_server import PASSWORD, RedisServer, running_redis


@pytest.fixture()
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        yield server


def _open(
    url: str, *, seconds: int = HOUR, max_bytes: int = 2**20, max_records: int = 99
) -> RedisStore:
    store: RecordStore = open_store(
        url, seconds=seconds, max_bytes=max_bytes, max_records=max_records
    )
    assert isinstance(store, RedisStore) and isinstance(store, ScoreStore)
    return store


def test_what_one_puts_any_other_gets_and_deletes_with_its_scores(redis: RedisServer) -> None:
    async def main() -> None:
        one, other = _open(redis.url), _open(redis.url)
        expires = await one.put(generation("a"))
        await one.put_scores("a", b"\x00\xff scores")
        kept = await other.get("a")
        assert kept is not None
        assert (kept.generation, kept.expires) == (generation("a"), expires)
        assert await other.get_scores("a") == b"\x00\xff scores"
        assert await other.delete("a") is True
        assert await one.delete("a") is False
        assert await one.get_scores("a") is None
        assert await one.sweep() == await other.sweep() == ["a"]
        await one.close()
        await other.close()

    asyncio.run(main())


def test_scores_are_bytes_whatever_the_address_says(redis: RedisServer) -> None:
    async def main() -> None:
        store = _open(f"{redis.url}?decode_responses=true")
        await store.put(generation("a"))
        await store.put_scores("a", b"\x00\xff scores")
        assert await store.get_scores("a") == b"\x00\xff scores"
        assert await store.get("a") is not None
        await store.close()

    asyncio.run(main())


def test_records_and_scores_go_by_themselves_and_do_not_come_back(redis: RedisServer) -> None:
    async def main() -> None:
        store = _open(redis.url, seconds=2)
        await store.put(generation("a"))
        await store.put_scores("a", b"x")
        await store.put_scores("never put", b"x")
        with redis.client() as client:
            assert all(client.ttl(key) != -1 for key in client.scan_iter())  # it will go
            while client.dbsize():
                await asyncio.sleep(0.05)
            await store.put_scores("a", b"too late")
            assert client.dbsize() == 0
        assert await store.sweep() == ["a"]
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("value", [b"", b"\x80\x04pickle", b'{"owner": ""}\n{}', b"[]\n{}"])
def test_a_record_that_cannot_be_read_is_no_missing_one(redis: RedisServer, value: bytes) -> None:
    async def main() -> None:
        store = _open(redis.url)
        await store.put(generation("a"))
        with redis.client() as client:
            (key,) = client.keys()
            client.set(key, value)
        with pytest.raises(DamagedRecordError, match="'a'"):
            await store.get("a")
        assert await store.delete("a")
        assert await store.get("a") is None
        await store.close()

    asyncio.run(main())


def test_a_full_redis_keeps_nothing_more_and_gives_what_it_has(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = _open(redis.url)
        await store.put(generation("a"))
        with redis.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
            assert await store.put(generation("b")) is None
            assert "b is not kept" in caplog.text and "maxmemory" in caplog.text
            await store.put_scores("a", b"x")
            assert "the scores of generation a are not kept" in caplog.text
            assert await store.get("a") is not None
            assert await store.delete("a") is True
            client.config_set("maxmemory", 0)
        assert await store.put(generation("b")) is not None
        await store.close()

    asyncio.run(main())


def test_calls_fail_while_redis_is_away_and_work_when_it_is_back(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = _open(redis.url)
        for name in "abc":
            await store.put(generation(name))
        await asyncio.gather(*(store.get("a") for _ in range(100)))  # all connections are in use
        redis.stop()
        for call in (store.get("a"), store.delete("a"), store.sweep()):
            with pytest.raises(StoreError, match="Redis cannot be reached"):
                await call
        assert await store.put(generation("d")) is None
        assert "d is not kept" in caplog.text and PASSWORD not in caplog.text
        redis.start()  # with nothing in it
        found = await asyncio.gather(*(store.get("a") for _ in range(100)))
        assert found == [None] * 100
        assert sorted(await store.sweep()) == ["a", "b", "c"]
        assert await store.put(generation("d")) is not None
        await store.close()

    asyncio.run(main())


def test_a_redis_that_does_not_answer_is_not_waited_for_long(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        patient = _open(redis.url)
        await patient.put(generation("a"))
        await patient.close()
        monkeypatch.setattr(module, "_SECONDS", 0.2)
        store = _open(redis.url)
        with redis.paused(), pytest.raises(StoreError, match=r"does not answer within 0\.2 s"):
            await store.get("a")
        while True:
            with suppress(StoreError):  # a machine may be busy for longer
                assert await store.get("a") is not None
                break
        await store.close()

    asyncio.run(main())


def test_a_store_opens_before_redis_is_there(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        redis.stop()
        store = _open(redis.url)
        assert "until the store answers" in caplog.text
        redis.start()
        assert await store.put(generation("a")) is not None
        await store.close()

    asyncio.run(main())


def test_many_at_once_share_few_connections(redis: RedisServer) -> None:
    async def main() -> None:
        store = _open(redis.url, max_records=9999)
        kept = await asyncio.gather(*(store.put(generation(f"g{n}")) for n in range(500)))
        assert None not in kept
        with redis.client() as client:
            assert len(client.client_list()) <= 33  # one of them is this client's
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda url: url.replace("%20", "-"), "refuses the password"),
        (lambda url: url.replace(":a%20password%20of%20sixteen@", ""), "refuses the password"),
        (lambda url: url.replace("/3", "/99"), "DB index is out of range"),
        (lambda url: url.replace("redis:", "http:"), "scheme 'http'"),
        (lambda url: url.replace("a%20password", "sixteen/"), "percent-encoded"),
        (lambda url: url.replace("a%20password", "sixteen#"), "percent-encoded"),
        (lambda url: f"{url}?socket_timeout=sixteen", "cannot be read"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_in_one_line(
    redis: RedisServer, change: Callable[[str], str], reason: str
) -> None:
    with pytest.raises(StoreError, match=reason) as caught:
        _open(change(redis.url))
    assert "\n" not in str(caught.value) and "sixteen" not in str(caught.value)
