"""Stores without a disk: one that keeps records as long as the process lives, one that keeps none.

All methods run on the event loop, so nothing is locked.
"""

import time
from collections import OrderedDict

from service.records.base import Generation, Kept


class MemoryStore:
    """Keeps generations in memory.

    Args:
        seconds: how long each is kept.
        max_bytes, max_records: beyond them, the oldest go first.
    """

    def __init__(self, seconds: int, max_bytes: int, max_records: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._records: OrderedDict[str, tuple[bytes, int]] = OrderedDict()  # record, when it goes
        self._bytes = 0
        self._gone: list[str] = []

    async def put(self, generation: Generation) -> int | None:
        """Keep a generation, the oldest going where there is no room; see `RecordStore`."""
        data, expires = generation.to_json(), int(time.time()) + self._seconds
        if len(data) > self._max_bytes:
            return None
        self._records[generation.id] = (data, expires)
        self._bytes += len(data)
        while self._bytes > self._max_bytes or len(self._records) > self._max_records:
            self._drop(next(iter(self._records)))
        return expires

    async def get(self, generation_id: str) -> Kept | None:
        """See `RecordStore`."""
        data, expires = self._records.get(generation_id, (b"", 0))
        if expires <= time.time():
            return None
        return Kept(Generation.from_json(data), expires)

    async def delete(self, generation_id: str) -> bool:
        """See `RecordStore`."""
        there = await self.get(generation_id) is not None
        if generation_id in self._records:
            self._drop(generation_id)
        return there

    async def sweep(self) -> list[str]:
        """See `RecordStore`."""
        now = time.time()
        for generation_id in [key for key, (_, expires) in self._records.items() if expires <= now]:
            self._drop(generation_id)
        gone, self._gone = self._gone, []
        return gone

    async def close(self) -> None:
        """Forget everything."""
        self._records.clear()

    def _drop(self, generation_id: str) -> None:
        self._bytes -= len(self._records.pop(generation_id)[0])
        self._gone.append(generation_id)


class NoStore:
    """Keeps nothing."""

    async def put(self, generation: Generation) -> int | None:
        """See `RecordStore`: it is not kept."""
        return None

    async def get(self, generation_id: str) -> Kept | None:
        """See `RecordStore`: there is none."""
        return None

    async def delete(self, generation_id: str) -> bool:
        """See `RecordStore`: there was none."""
        return False

    async def sweep(self) -> list[str]:
        """See `RecordStore`: nothing went."""
        return []

    async def close(self) -> None:
        """See `RecordStore`."""
