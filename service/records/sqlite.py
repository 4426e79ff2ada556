"""A store in one SQLite file, which outlives the process.

One connection writes and one reads, each on a thread of its own. Written ahead (WAL), so that
neither a killed process nor a reader in another one spoils it. What is deleted is gone from the
files: freed pages are overwritten with zeros, and the log of writes, which holds copies, is
emptied. That has to wait while another process reads; then `erased` says so, and every sweep tries
again.
"""

import asyncio
import logging
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from service.failures import DamagedRecordError, StoreError
from service.records.base import Generation, Kept

logger = logging.getLogger("at2.service")

T = TypeVar("T")

_LAYOUT = 2
"""Version of the tables, in the file's `user_version`."""

_TABLE = (
    """CREATE TABLE generations (
        id TEXT PRIMARY KEY,
        expires INTEGER NOT NULL,
        size INTEGER NOT NULL,
        record BLOB NOT NULL
    )""",
    "CREATE INDEX generations_by_expiry ON generations (expires, size)",
)

_OWNERS_AND_TOTALS = (
    "ALTER TABLE generations ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
    "CREATE TABLE totals (count INTEGER NOT NULL, bytes INTEGER NOT NULL)",
    "INSERT INTO totals SELECT count(*), ifnull(sum(size), 0) FROM generations",
    """CREATE TRIGGER generation_put AFTER INSERT ON generations BEGIN
        UPDATE totals SET count = count + 1, bytes = bytes + new.size;
    END""",
    """CREATE TRIGGER generation_gone AFTER DELETE ON generations BEGIN
        UPDATE totals SET count = count - 1, bytes = bytes - old.size;
    END""",
)

_STEPS = {0: _TABLE + _OWNERS_AND_TOTALS, 1: _OWNERS_AND_TOTALS}
"""What makes this layout of an earlier one."""

_BUSY_SECONDS = 10.0
"""How long another process may hold the file before a call fails."""

_ATTEMPT_SECONDS = 0.2
"""How long a connection waits for it at once; meanwhile nothing else is written."""

_PAUSE_SECONDS = 0.05
"""Between attempts."""

_ERASE_SECONDS = 2.0
"""How long a deletion waits for the log of writes to be emptied."""

_PIECE = 100
"""Records that go in one transaction; others' writes come in between."""

_LEAST_FREE = 32 * 2**20
"""Bytes that records leave free on the disk: deletions write, too, before they give room back."""

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

_COMPANIONS = ("", "-wal", "-shm")


class SqliteStore:
    """Keeps generations in a file.

    Args:
        place: the file; made if there is none, together with its folder. A file that is no
            database is moved aside, with a line in the log.
        seconds: how long each generation is kept.
        max_bytes, max_records: beyond them, the oldest go first.

    Raises:
        StoreError: the file cannot be opened or made, or was written by a later version.
    """

    def __init__(self, place: str, seconds: int, max_bytes: int, max_records: int) -> None:
        self._path = Path(place)
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._gone: list[str] = []
        self._erased = True
        self._told = False  # of what cannot be erased
        self._writing, self._reading = (
            ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"store-{name}")
            for name in ("writing", "reading")
        )
        try:
            self._writer = _attempted(self._writing, self._open_or_begin_anew)
            _attempted(self._writing, self._erase)  # after a process that could not
            self._reader = _attempted(self._reading, self._connect)
        except (OSError, sqlite3.Error, StoreError) as error:
            self._writing.shutdown()
            self._reading.shutdown()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise StoreError(f"the store {self._path.name!r} cannot be used: {reason}") from error

    # -- the interface -------------------------------------------------------------------------

    async def put(self, generation: Generation, owner: str = "") -> int | None:
        """Keep a generation, the oldest going where there is no room.

        Returns:
            When it goes; None if it could not be written, which is logged: a full disk, or a
            process that holds the file for long, must not cost anybody a reply.
        """
        data, expires = generation.to_json(), int(time.time()) + self._seconds
        if len(data) > self._max_bytes:
            return None
        try:
            await self._write(lambda: self._insert(generation.id, data, expires, owner))
        except StoreError as error:
            logger.error("generation %s is not kept: %s", generation.id, error)
            return None
        return expires

    async def get(self, generation_id: str, owner: str = "") -> Kept | None:
        """See `RecordStore`."""
        stored = await self._run(self._reading, lambda: self._read(generation_id, owner))
        if stored is None:
            return None
        try:
            return Kept(Generation.from_json(stored[0]), stored[1])
        except ValueError as error:
            raise DamagedRecordError(generation_id) from error

    async def delete(self, generation_id: str, owner: str = "") -> bool:
        """See `RecordStore`; damaged ones go as well."""
        condition = "id = ? AND expires > ? AND owner IN ('', ?)"
        values = (generation_id, int(time.time()), owner)
        if not await self._write(lambda: self._remove(condition, values)):
            return False
        deadline = time.monotonic() + _ERASE_SECONDS
        while not await self._write(self._erase) and time.monotonic() < deadline:
            await asyncio.sleep(_PAUSE_SECONDS)
        return True

    @property
    def erased(self) -> bool:
        """See `RecordStore`."""
        return self._erased

    async def sweep(self) -> list[str]:
        """See `RecordStore`."""
        while await self._write(lambda: self._remove("expires <= ?", (int(time.time()),))):
            pass
        while await self._write(self._trim):
            pass
        if not self._erased and not await self._write(self._erase) and not self._told:
            logger.warning(
                "deleted text stays in the log of writes as long as another process reads the store"
            )
        self._told = not self._erased
        gone, self._gone = self._gone, []
        return gone

    async def close(self) -> None:
        """Close the file."""
        await self._run(self._reading, self._reader.close)
        await self._run(self._writing, self._writer.close)
        self._reading.shutdown()
        self._writing.shutdown()

    # -- on the threads ------------------------------------------------------------------------

    async def _run(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        """The result of some work, after as many attempts as it takes while the file is held.

        Raises:
            StoreError: it is held for too long, or cannot be used.
        """
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                return await asyncio.get_running_loop().run_in_executor(thread, work)
            except (OSError, sqlite3.Error) as error:
                if not _is_held(error) or time.monotonic() > deadline:
                    raise StoreError(f"the store cannot be used: {error}") from error
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _write(self, work: Callable[[], T]) -> T:
        return await self._run(self._writing, work)

    def _open_or_begin_anew(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or not self._path.is_file():
                raise  # no rights, no room, in use: nothing wrong with the file
            aside = f"{self._path.name}.damaged-{time.strftime('%Y%m%dT%H%M%S')}"
            logger.error(
                "the store %s is damaged (%s): moved aside to %s, a new one begins",
                self._path.name,
                error,
                aside,
            )
            for suffix in _COMPANIONS:
                companion = self._path.with_name(self._path.name + suffix)
                if companion.exists():
                    companion.rename(self._path.with_name(aside + suffix))
            return self._open()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # For nobody else to read, whatever the process's mask says; the log inherits it.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = self._connect()
        try:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            if _layout(connection) in _STEPS:
                _take_over(connection)
            if (layout := _layout(connection)) != _LAYOUT:
                raise StoreError(f"it has layout {layout}, this version reads {_LAYOUT}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_ATTEMPT_SECONDS, isolation_level=None)

    def _read(self, generation_id: str, owner: str) -> tuple[bytes, int] | None:
        rows: list[tuple[bytes, int]] = self._reader.execute(
            "SELECT record, expires FROM generations "
            "WHERE id = ? AND expires > ? AND owner IN ('', ?)",
            (generation_id, int(time.time()), owner),
        ).fetchall()  # all: what is not read to its end holds up the emptying of the log
        return rows[0] if rows else None

    def _insert(self, generation_id: str, data: bytes, expires: int, owner: str) -> None:
        if shutil.disk_usage(self._path.parent).free < _LEAST_FREE + len(data):
            raise StoreError(f"the disk has less than {_LEAST_FREE >> 20} MB free")
        with self._transaction():
            self._writer.execute(
                "INSERT INTO generations (id, expires, size, record, owner) VALUES (?, ?, ?, ?, ?)",
                (generation_id, expires, len(data), data, owner),
            )
            self._remove_oldest()

    def _trim(self) -> int:
        """Remove the oldest where there are too many; how many went, a piece at the most."""
        with self._transaction():
            return self._remove_oldest()

    def _remove_oldest(self) -> int:
        for removed in range(_PIECE):
            count, size = self._writer.execute("SELECT count, bytes FROM totals").fetchone()
            if count <= self._max_records and size <= self._max_bytes:
                return removed
            self._delete("rowid = (SELECT min(rowid) FROM generations)", ())
        return _PIECE

    def _remove(self, condition: str, values: tuple[str | int, ...]) -> int:
        """Remove what meets a condition; how many went, a piece at the most."""
        piece = f"rowid IN (SELECT rowid FROM generations WHERE {condition} LIMIT {_PIECE})"
        with self._transaction():
            return self._delete(piece, values)

    def _delete(self, condition: str, values: tuple[str | int, ...]) -> int:
        removed = self._writer.execute(
            f"DELETE FROM generations WHERE {condition} RETURNING id", values
        ).fetchall()
        if removed:
            self._gone += [generation_id for (generation_id,) in removed]
            self._erased = False
        return len(removed)

    def _erase(self) -> bool:
        """Empty the log of writes; whether that could be done."""
        (busy, _, _) = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self._erased = not busy
        return self._erased

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:  # some errors have ended it already
                self._writer.execute("ROLLBACK")
            raise


def _layout(connection: sqlite3.Connection) -> int:
    (layout,) = connection.execute("PRAGMA user_version").fetchone()
    return int(layout)


def _take_over(connection: sqlite3.Connection) -> None:
    """Make this layout of an earlier one, or of an empty file."""
    connection.execute("BEGIN IMMEDIATE")
    layout = _layout(connection)  # another process may have been first
    if layout in _STEPS:
        for statement in _STEPS[layout]:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_LAYOUT}")
    connection.execute("COMMIT")


def _attempted(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    """The result of some work on a thread, as `SqliteStore._run` has it, without an event loop."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            return thread.submit(work).result()
        except sqlite3.Error as error:
            if not _is_held(error) or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_SECONDS)


def _is_held(error: Exception) -> bool:
    """Whether it is only that another process holds the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY
