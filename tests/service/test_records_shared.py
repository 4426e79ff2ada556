"""A store's file that another process reads or holds: nothing is lost, and nothing is promised that
is not so. Two connections of one process are to SQLite what those of two processes are."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from service.failures import StoreError
from service.records import SqliteStore
from service.records import sqlite as module
from tests.helpers.records import HOUR, SECRET, generation

LIMIT_S = 120.0

_LAYOUT_1 = """
CREATE TABLE generations (
    id TEXT PRIMARY KEY, expires INTEGER NOT NULL, size INTEGER NOT NULL, record BLOB NOT NULL
);
CREATE INDEX generations_by_expiry ON generations (expires, size);
PRAGMA user_version = 1;
"""

_IN_ORDER = "SELECT id FROM generations ORDER BY rowid"


@pytest.fixture()
def path(tmp_path: Path) -> Path:
    return tmp_path / "records.sqlite"


def _open(path: Path, *, seconds: int = HOUR, max_records: int = 9999) -> SqliteStore:
    return SqliteStore(str(path), seconds, 2**30, max_records)


def _other(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Somebody reads what is there now, as a backup does."""
    with closing(_other(path)) as other:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM generations").fetchall()
        yield


def _on_disk(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_deleted_text_goes_when_the_reader_has_ended_and_not_sooner_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_ERASE_SECONDS", 0.3)

    async def main() -> None:
        store = _open(path)
        await store.put(generation("a"))
        with _reading(path):
            assert await store.delete("a") is True
            assert not store.erased
            assert SECRET.encode() in _on_disk(path)
            assert await store.get("a") is None
            for _ in range(3):
                await store.sweep()
            assert not store.erased
            assert caplog.text.count("deleted text stays") == 1
        await store.sweep()
        assert store.erased
        assert SECRET.encode() not in _on_disk(path)
        await store.close()

    asyncio.run(main())


def test_a_deletion_waits_for_a_reader_that_soon_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ERASE_SECONDS", LIMIT_S)

    async def main() -> None:
        store = _open(path)
        await store.put(generation("a"))
        with _reading(path):
            deleting = asyncio.create_task(store.delete("a"))
            while await store.get("a") is not None:
                await asyncio.sleep(0.01)
        assert await deleting is True
        assert store.erased and SECRET.encode() not in _on_disk(path)
        await store.close()

    asyncio.run(main())


def test_what_a_killed_process_could_not_erase_is_erased_by_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ERASE_SECONDS", 0.0)

    async def main() -> None:
        killed = _open(path)  # never closed
        await killed.put(generation("a"))
        with _reading(path):
            await killed.delete("a")
        assert SECRET.encode() in _on_disk(path)
        store = _open(path)
        assert store.erased and SECRET.encode() not in _on_disk(path)
        await store.close()
        await killed.close()

    asyncio.run(main())


def test_a_put_waits_for_a_lock_and_reads_do_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", LIMIT_S)

    async def main() -> None:
        store = _open(path)
        await store.put(generation("a"))
        with closing(_other(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            putting = asyncio.create_task(store.put(generation("b")))
            for _ in range(20):
                assert await store.get("a") is not None
                assert not putting.done()
                await asyncio.sleep(0.02)  # far longer than one attempt, all in all
            other.execute("COMMIT")
        assert await putting is not None
        assert await store.get("b") is not None
        await store.close()

    asyncio.run(main())


def test_a_put_that_waits_in_vain_is_not_kept_and_says_so(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.3)

    async def main() -> None:
        store = _open(path)
        with closing(_other(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            assert await store.put(generation("a")) is None
            other.execute("COMMIT")
        assert "a is not kept" in caplog.text
        assert await store.put(generation("a")) is not None
        await store.close()

    asyncio.run(main())


def test_limits_hold_over_all_processes_that_share_a_file(path: Path) -> None:
    async def main() -> None:
        one, other = _open(path, max_records=4), _open(path, max_records=4)
        for number in range(5):
            await one.put(generation(f"one-{number}"))
            await other.put(generation(f"other-{number}"))
        await other.delete("other-4")
        await one.put(generation("last"))
        with closing(_other(path)) as connection:
            names = [name for (name,) in connection.execute(_IN_ORDER)]
            assert names == ["one-3", "other-3", "one-4", "last"]
            (totals,) = connection.execute("SELECT count, bytes FROM totals").fetchall()
            query = "SELECT count(*), sum(length(record)) FROM generations"
            assert totals == connection.execute(query).fetchone()
        await one.close()
        await other.close()

    asyncio.run(main())


def test_a_file_of_the_layout_before_is_taken_over(path: Path) -> None:
    record = generation("old").to_json()
    with closing(_other(path)) as connection:
        connection.executescript(_LAYOUT_1)
        values = ("old", int(time.time()) + HOUR, len(record), record)
        connection.execute("INSERT INTO generations VALUES (?, ?, ?, ?)", values)

    async def main() -> None:
        store = _open(path, max_records=2)
        assert await store.get("old", "anybody") is not None
        for name in "ab":
            await store.put(generation(name))
        assert await store.get("old") is None  # it counts, and was the oldest
        assert await store.get("a") is not None
        await store.close()

    asyncio.run(main())


def test_a_start_waits_for_another_that_makes_the_same_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", LIMIT_S)
    with closing(_other(path)) as other, ThreadPoolExecutor() as thread:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        for statement in _LAYOUT_1.split(";"):
            other.execute(statement)
        opening = thread.submit(_open, path)
        with pytest.raises(TimeoutError):
            opening.result(0.5)  # longer than one attempt
        other.execute("COMMIT")
        store = opening.result()

    async def main() -> None:
        assert await store.put(generation("a")) is not None
        assert await store.get("a") is not None
        await store.close()

    asyncio.run(main())


def test_a_start_that_waits_in_vain_says_what_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.3)
    with closing(_other(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"'records\.sqlite' cannot be used: .* locked"):
            _open(path)


def test_a_sweep_lets_others_in_between(path: Path) -> None:
    async def main() -> None:
        store = _open(path, seconds=0)
        for number in range(5 * module._PIECE):
            await store.put(generation(f"g{number}", "x"))
        store._seconds = HOUR
        sweeping = asyncio.create_task(store.sweep())
        await asyncio.sleep(0)
        await store.put(generation("new"))
        assert not sweeping.done()
        assert len(await sweeping) == 5 * module._PIECE
        assert await store.get("new") is not None
        await store.close()

    asyncio.run(main())


def test_a_limit_that_was_lowered_is_reached_in_pieces(path: Path) -> None:
    async def main() -> None:
        store = _open(path)
        count = 3 * module._PIECE
        for number in range(count):
            await store.put(generation(f"g{number}", "x"))
        await store.close()
        store = _open(path, max_records=10)
        await store.put(generation("new"))
        assert (
            await store.get(f"g{count - 1 - 2 * module._PIECE + 5}") is not None
        )  # not all at once
        await store.sweep()
        with closing(_other(path)) as connection:
            assert connection.execute("SELECT count(*) FROM generations").fetchone() == (10,)
        assert await store.get("new") is not None
        await store.close()

    asyncio.run(main())
