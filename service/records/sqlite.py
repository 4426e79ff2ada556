"""A store in one SQLite file, which outlives the process.

One connection on one thread. Written ahead (WAL), so that neither a killed process nor a reader in
another one spoils it. What is deleted is gone from the disk: freed pages are overwritten with
zeros, and the log of writes, which holds copies, is emptied each time.
"""

import asyncio
import logging
import os
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

_LAYOUT = 1
"""Version of the table, in the file's `user_version`."""

_TABLE = """
CREATE TABLE generations (
    id TEXT PRIMARY KEY,
    expires INTEGER NOT NULL,
    size INTEGER NOT NULL,
    record BLOB NOT NULL
);
CREATE INDEX generations_by_expiry ON generations (expires, size);
"""

_BUSY_SECONDS = 10.0
"""How long another process may hold the file before a call fails."""

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
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            self._connection = self._thread.submit(self._open_or_begin_anew).result()
        except (OSError, sqlite3.Error, StoreError) as error:
            self._thread.shutdown()
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise StoreError(f"the store {self._path.name!r} cannot be used: {reason}") from error

    # -- the interface -------------------------------------------------------------------------

    async def put(self, generation: Generation) -> int | None:
        """Keep a generation, the oldest going where there is no room.

        Returns:
            When it goes; None if it could not be written, which is logged: a full disk must not
            cost anybody a reply.
        """
        data, expires = generation.to_json(), int(time.time()) + self._seconds
        if len(data) > self._max_bytes:
            return None
        try:
            await self._run(lambda: self._insert(generation.id, data, expires))
        except StoreError as error:
            logger.error("generation %s is not kept: %s", generation.id, error)
            return None
        return expires

    async def get(self, generation_id: str) -> Kept | None:
        """See `RecordStore`."""
        found = await self._run(lambda: self._read(generation_id))
        if found is None:
            return None
        try:
            return Kept(Generation.from_json(found[0]), found[1])
        except ValueError as error:
            raise DamagedRecordError(generation_id) from error

    async def delete(self, generation_id: str) -> bool:
        """See `RecordStore`; damaged ones go as well."""

        def work() -> bool:
            there = self._read(generation_id) is not None
            self._remove("id = ?", (generation_id,))
            return there

        return await self._run(work)

    async def sweep(self) -> list[str]:
        """See `RecordStore`."""
        await self._run(lambda: self._remove("expires <= ?", (int(time.time()),)))
        gone, self._gone = self._gone, []
        return gone

    async def close(self) -> None:
        """Close the file."""
        await self._run(self._connection.close)
        self._thread.shutdown()

    # -- on the thread -------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise StoreError(f"the store cannot be used: {error}") from error

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
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
            (layout,) = connection.execute("PRAGMA user_version").fetchone()
            if layout == 0:
                connection.executescript(f"BEGIN; {_TABLE} PRAGMA user_version = {_LAYOUT}; COMMIT")
            elif layout != _LAYOUT:
                raise StoreError(f"it has layout {layout}, this version reads {_LAYOUT}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _read(self, generation_id: str) -> tuple[bytes, int] | None:
        found: tuple[bytes, int] | None = self._connection.execute(
            "SELECT record, expires FROM generations WHERE id = ? AND expires > ?",
            (generation_id, int(time.time())),
        ).fetchone()
        return found

    def _insert(self, generation_id: str, data: bytes, expires: int) -> None:
        with self._transaction():
            self._connection.execute(
                "INSERT INTO generations (id, expires, size, record) VALUES (?, ?, ?, ?)",
                (generation_id, expires, len(data), data),
            )
        while True:
            count, size = self._connection.execute(
                "SELECT count(*), total(size) FROM generations"
            ).fetchone()
            if count <= self._max_records and size <= self._max_bytes:
                return
            self._remove(
                "rowid IN (SELECT rowid FROM generations ORDER BY rowid LIMIT ?)",
                (max(1, count - self._max_records),),
            )

    def _remove(self, condition: str, values: tuple[str | int, ...]) -> None:
        with self._transaction():
            removed = self._connection.execute(
                f"DELETE FROM generations WHERE {condition} RETURNING id", values
            ).fetchall()
        if removed:
            self._gone += [generation_id for (generation_id,) in removed]
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # some errors have ended it already
                self._connection.execute("ROLLBACK")
            raise
