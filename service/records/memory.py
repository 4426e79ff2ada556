"""A store without a disk, which keeps records as long as the process lives.

All methods run on the event loop, so nothing is locked.
"""

import time
from collections import OrderedDict

from service.records.base import Generation, Kept


class MemoryStore:
    """Keeps generations in memory.

    Args:
        seconds: how long each is kept.
        max_bytes, max_records: beyond them, the oldest go first. With no bytes, nothing is kept.
    """

    def __init__(self, seconds: int, max_bytes: int, max_records: int) -> None:
        self._seconds = seconds
        self._max_bytes = max_bytes
        self._max_records = max_records
        self._records: OrderedDict[str, tuple[bytes, int, str]] = (
            OrderedDict()  # record, when it goes, owner
        )
        self._bytes = 0
        self._gone: list[str] = []

    async def put(self, generation: Generation, owner: str = "") -> int | None:
        """Keep a generation, the oldest going where there is no room; see `RecordStore`."""
        data, expires = generation.to_json(), int(time.time()) + self._seconds
        if len(data) > self._max_bytes:
            return None
        self._records[generation.id] = (data, expires, owner)
        self._bytes += len(data)
        while self._bytes > self._max_bytes or len(self._records) > self._max_records:
            self._drop(next(iter(self._records)))
        return expires

    async def get(self, generation_id: str, owner: str = "") -> Kept | None:
        """See `RecordStore`."""
        data, expires, its_owner = self._records.get(generation_id, (b"", 0, ""))
        if expires <= time.time() or its_owner not in ("", owner):
            return None
        return Kept(Generation.from_json(data), expires)

    async def delete(self, generation_id: str, owner: str = "") -> bool:
        """See `RecordStore`."""
        if await self.get(generation_id, owner) is None:
            return False
        self._drop(generation_id)
        return True

    @property
    def erased(self) -> bool:
        """See `RecordStore`."""
        return True

    async def sweep(self) -> list[str]:
        """See `RecordStore`."""
        while self._records:
            oldest = next(iter(self._records))
            if self._records[oldest][1] > time.time():
                break
            self._drop(oldest)
        gone, self._gone = self._gone, []
        return gone

    async def close(self) -> None:
        """Forget everything."""
        self._records.clear()

    def _drop(self, generation_id: str) -> None:
        self._bytes -= len(self._records.pop(generation_id)[0])
        self._gone.append(generation_id)
