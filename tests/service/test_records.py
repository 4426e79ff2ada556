"""Stores keep what they are given, for as long and as much as they may, and forget it for good."""

import asyncio
import os
import sqlite3
import stat
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2.tasks import Document
from service.failures import DamagedRecordError, StoreError
from service.records import Generation, Prompt, RecordStore, SqliteStore, open_store
from service.records import sqlite as sqlite_module
from tests.helpers.records import HOUR, SECRET, generation
from tests.helpers.redis_server import running_redis

T = TypeVar("T")

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class Open(Protocol):
    """Opens a store of one kind."""

    def __call__(
        self, *, seconds: int = HOUR, max_bytes: int = 2**20, max_records: int = 99
    ) -> RecordStore: ...


def _opener(place: str) -> Open:
    def opened(
        *, seconds: int = HOUR, max_bytes: int = 2**20, max_records: int = 99
    ) -> RecordStore:
        return open_store(place, seconds=seconds, max_bytes=max_bytes, max_records=max_records)

    return opened


@pytest.fixture()
def file(tmp_path: Path) -> Open:
    return _opener(str(tmp_path / "store" / "records.sqlite"))


@pytest.fixture(params=["memory", "file"])
def local(request: pytest.FixtureRequest) -> Open:
    """Of each kind that bounds by itself what it keeps."""
    return _opener("memory") if request.param == "memory" else request.getfixturevalue("file")


@pytest.fixture(params=["memory", "file", "redis"])
def any_kind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Of each kind that keeps anything."""
    if request.param == "redis":
        with running_redis(tmp_path) as server:
            yield _opener(server.url)
    else:
        yield _opener("memory") if request.param == "memory" else request.getfixturevalue("file")


def _bytes_on_disk(tmp_path: Path) -> bytes:
    return b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@given(
    st.builds(
        Generation,
        id=st.just("gen-1"),
        model=_TEXT,
        created=st.integers(0, 2**40),
        prompt=st.builds(
            Prompt,
            st.lists(
                st.builds(Document, _TEXT, st.none() | _TEXT, st.none() | _TEXT), max_size=3
            ).map(tuple),
            _TEXT,
            st.lists(st.tuples(st.sampled_from(["user", "assistant"]), _TEXT), max_size=2).map(
                tuple
            ),
            st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
        ),
        source_type=st.just("word"),
        prompt_tokens=st.integers(0, 10**6),
        response_ids=st.lists(st.integers(0, 10**6)).map(tuple),
        response=_TEXT,
        finish_reason=st.sampled_from(["stop", "length"]),
    )
)
def test_a_record_reads_back_as_it_was(record: Generation) -> None:
    assert Generation.from_json(record.to_json()) == record


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"prompt": 1}', b"\xff"])
def test_what_is_no_record_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        Generation.from_json(data)


def test_what_is_put_is_got_until_it_is_deleted(any_kind: Open) -> None:
    async def main() -> None:
        store = any_kind()
        expires = await store.put(generation("a"))
        await store.put(generation("b"))
        kept = await store.get("a")
        assert kept is not None and kept.generation == generation("a")
        assert kept.expires == expires
        assert await store.get("c") is None
        assert await store.delete("a") is True
        assert await store.delete("a") is False
        assert await store.get("a") is None
        assert await store.get("b") is not None
        assert await store.sweep() == ["a"]
        assert await store.sweep() == []
        await store.close()

    _run(main())


def test_what_has_expired_is_not_there_and_swept_away(local: Open, tmp_path: Path) -> None:
    async def main() -> None:
        store = local(seconds=0)
        await store.put(generation("a"))
        assert await store.get("a") is None
        assert await store.delete("a") is False
        await store.put(generation("b"))
        assert sorted(await store.sweep()) == ["a", "b"]
        assert SECRET.encode() not in _bytes_on_disk(tmp_path)
        await store.close()

    _run(main())


def test_the_oldest_go_where_there_are_too_many(local: Open) -> None:
    async def main() -> None:
        store = local(max_records=3)
        for name in "abcde":
            await store.put(generation(name))
        assert [name for name in "abcde" if await store.get(name)] == ["c", "d", "e"]
        assert await store.sweep() == ["a", "b"]
        await store.close()

    _run(main())


def test_the_oldest_go_where_there_is_too_much(local: Open) -> None:
    size = len(generation("a").to_json())

    async def main() -> None:
        store = local(max_bytes=3 * size)
        for name in "abcde":
            await store.put(generation(name))
        assert [name for name in "abcde" if await store.get(name)] == ["c", "d", "e"]
        await store.close()

    _run(main())


def test_a_record_that_is_too_large_is_not_kept(any_kind: Open) -> None:
    async def main() -> None:
        store = any_kind(max_bytes=2000)
        await store.put(generation("a"))
        assert await store.put(generation("b", "x" * 2000)) is None
        assert await store.get("b") is None
        assert await store.get("a") is not None
        await store.close()

    _run(main())


def test_a_record_is_its_owners_and_one_without_is_everybodys(any_kind: Open) -> None:
    async def main() -> None:
        store = any_kind()
        await store.put(generation("a"), "ann")
        await store.put(generation("b"))
        assert await store.get("a", "ann") is not None
        for other in ("bob", ""):
            assert await store.get("a", other) is None
            assert await store.delete("a", other) is False
            assert await store.get("b", other) is not None
        assert await store.delete("a", "ann") is True
        assert await store.delete("b", "bob") is True
        assert sorted(await store.sweep()) == ["a", "b"]
        assert store.erased
        await store.close()

    _run(main())


def test_nothing_is_kept_where_nothing_is_to_be() -> None:
    async def main() -> None:
        store = _opener("none")()
        assert await store.put(generation("a")) is None
        assert await store.get("a") is None
        assert await store.delete("a") is False
        assert await store.sweep() == []
        await store.close()

    _run(main())


def test_a_file_outlives_its_store(file: Open) -> None:
    async def put() -> None:
        store = file()
        await store.put(generation("a"))
        await store.close()

    async def get() -> None:
        store = file()
        kept = await store.get("a")
        assert kept is not None and kept.generation == generation("a")
        await store.close()

    _run(put())
    _run(get())


def test_deleted_text_is_gone_from_every_file(tmp_path: Path, file: Open) -> None:
    long = SECRET * 2000  # goes over many pages

    async def main() -> None:
        store = file()
        await store.put(generation("a"))
        await store.put(generation("b", long))
        await store.put(generation("c", "something else"))
        assert SECRET.encode() in _bytes_on_disk(tmp_path)
        await store.delete("b")
        await store.delete("a")
        assert SECRET.encode() not in _bytes_on_disk(tmp_path)
        assert b"something else" in _bytes_on_disk(tmp_path)
        await store.close()
        assert SECRET.encode() not in _bytes_on_disk(tmp_path)

    _run(main())


def test_nobody_else_may_read_the_files(tmp_path: Path, file: Open) -> None:
    async def main() -> None:
        store = file()
        await store.put(generation("a"))
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) == 3  # the database, its log, and the log's index
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
        await store.close()

    _run(main())


@pytest.mark.parametrize("damage", ["text", "torn", "flipped"])
def test_a_damaged_file_is_moved_aside(
    tmp_path: Path, file: Open, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store" / "records.sqlite"

    async def fill() -> None:
        store = file()
        for number in range(20):
            await store.put(generation(f"g{number}", SECRET * 50))
        await store.close()

    _run(fill())
    content = path.read_bytes()
    if damage == "text":
        path.write_bytes(b"this is no database, whatever its name says" * 100)
    elif damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content[:4096] + bytes(len(content) - 4096))

    async def main() -> None:
        store = file()
        assert await store.get("g1") is None
        assert await store.put(generation("new")) is not None
        assert await store.get("new") is not None
        await store.close()

    _run(main())
    aside = [p for p in path.parent.iterdir() if p.name.startswith("records.sqlite.damaged-")]
    assert aside
    assert "damaged" in caplog.text and aside[0].name in caplog.text


def test_a_file_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "later.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="99"):
        SqliteStore(str(path), HOUR, 2**20, 9)
    assert path.exists()


@pytest.mark.parametrize("place", ["folder", "file/below"])
def test_a_place_that_cannot_be_is_refused_in_one_line(tmp_path: Path, place: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError) as caught:
        SqliteStore(str(tmp_path / place), HOUR, 2**20, 9)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_record_that_cannot_be_read_is_no_missing_one(tmp_path: Path, file: Open) -> None:
    async def main() -> None:
        store = file()
        await store.put(generation("a"))
        with sqlite3.connect(tmp_path / "store" / "records.sqlite") as other:
            other.execute("UPDATE generations SET record = x'00'")
        other.close()
        with pytest.raises(DamagedRecordError, match="'a'"):
            await store.get("a")
        assert await store.delete("a")
        assert await store.get("a") is None
        await store.close()

    _run(main())


def test_a_failed_write_loses_the_record_and_nothing_else(
    tmp_path: Path, file: Open, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = file()
        await store.put(generation("a"))
        # as when somebody else holds the file: every write of ours fails
        other = sqlite3.connect(tmp_path / "store" / "records.sqlite", isolation_level=None)
        other.execute("DROP TABLE generations")
        assert await store.put(generation("b")) is None
        assert "b is not kept" in caplog.text
        with pytest.raises(StoreError):
            await store.get("a")
        other.close()
        await store.close()

    _run(main())


def test_a_disk_that_is_almost_full_keeps_nothing_more_and_forgets(
    file: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        store = file()
        assert await store.put(generation("a")) is not None
        monkeypatch.setattr(sqlite_module, "_LEAST_FREE", 2**60)
        assert await store.put(generation("b")) is None
        assert "b is not kept: the disk has less than" in caplog.text
        assert await store.get("a") is not None and await store.get("b") is None
        assert await store.delete("a") and store.erased
        await store.close()

    asyncio.run(main())


def test_two_processes_may_share_a_file(file: Open) -> None:
    async def main() -> None:
        one, other = file(), file()
        await one.put(generation("a"))
        assert await other.get("a") is not None
        assert await other.delete("a") is True
        assert await one.get("a") is None
        await one.close()
        await other.close()

    _run(main())


def test_no_thread_stays_behind(tmp_path: Path, file: Open) -> None:
    before = set(threading.enumerate())

    async def main() -> None:
        store = file()
        await store.put(generation("a"))
        await store.close()

    _run(main())
    assert not set(threading.enumerate()) - before
    assert os.listdir(tmp_path / "store") == ["records.sqlite"]  # the log is folded in
