"""Generations kept for later attribution. Knows nothing of models or of HTTP.

The store is a small interface, so that another place to keep records is one more module.
"""

from service.records.base import FinishReason, Generation, Kept, Prompt, RecordStore
from service.records.memory import MemoryStore, NoStore
from service.records.sqlite import SqliteStore

__all__ = [
    "FinishReason",
    "Generation",
    "Kept",
    "MemoryStore",
    "NoStore",
    "Prompt",
    "RecordStore",
    "SqliteStore",
    "open_store",
]

MEMORY = "memory"
NONE = "none"


def open_store(place: str, *, seconds: int, max_bytes: int, max_records: int) -> RecordStore:
    """The store that a setting names.

    Args:
        place: `memory`, `none`, or a file.
        seconds: how long a generation is kept.
        max_bytes, max_records: beyond them, the oldest go first.

    Raises:
        StoreError: the file cannot be used.
    """
    if place == NONE:
        return NoStore()
    if place == MEMORY:
        return MemoryStore(seconds, max_bytes, max_records)
    return SqliteStore(place, seconds, max_bytes, max_records)
