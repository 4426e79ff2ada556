"""Generations kept for later attribution. Knows nothing of models or of HTTP.

The store is a small interface, so that another place to keep records is one more module.
"""

from typing import Literal

from service.failures import StoreError
from service.records.base import (
    FinishReason,
    Generation,
    Kept,
    Prompt,
    RecordStore,
    ScoreStore,
    thoughts_document,
)
from service.records.memory import MemoryStore
from service.records.sqlite import SqliteStore

__all__ = [
    "FinishReason",
    "Generation",
    "Kept",
    "MemoryStore",
    "Prompt",
    "RecordStore",
    "ScoreStore",
    "SqliteStore",
    "StoreKind",
    "kind_of_store",
    "open_store",
    "thoughts_document",
]

StoreKind = Literal["memory", "none", "file", "redis"]
"""Where records are."""

_SCHEMES = ("redis", "rediss", "unix")
"""Of addresses of a Redis server."""


def kind_of_store(place: str) -> StoreKind:
    """What kind of store a setting names.

    Raises:
        StoreError: it is an address of something else.
    """
    if place == "memory":
        return "memory"
    if place == "none":
        return "none"
    scheme, separator, _ = place.partition("://")
    if not separator:
        return "file"
    if scheme not in _SCHEMES:
        raise StoreError(
            f"AT2_STORE has the scheme {scheme!r}; there are: {', '.join(_SCHEMES)}, or a file"
        )
    return "redis"


def open_store(place: str, *, seconds: int, max_bytes: int, max_records: int) -> RecordStore:
    """The store that a setting names.

    Args:
        place: `memory`, `none`, a file, or the address of a Redis server.
        seconds: how long a generation is kept.
        max_bytes, max_records: beyond them, the oldest go first; Redis has limits of its own.

    Raises:
        StoreError: the file or the server cannot be used.
    """
    kind = kind_of_store(place)
    if kind in ("memory", "none"):
        return MemoryStore(seconds, 0 if kind == "none" else max_bytes, max_records)
    if kind == "file":
        return SqliteStore(place, seconds, max_bytes, max_records)
    try:
        from service.records.redis import RedisStore
    except ImportError as error:
        raise StoreError(
            "the store needs the package redis: pip install 'at2-service[redis]'"
        ) from error
    return RedisStore(place, seconds, max_bytes, max_records)
