"""Generations kept for later attribution. Knows nothing of models or of HTTP.

The store is a small interface so that another place to keep records is one more class.
"""

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock
from typing import Literal, Protocol

from at2.tasks import Document

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """The context and query of a request, as the caller gave them."""

    documents: tuple[Document, ...]
    query: str
    messages: tuple[tuple[str, str], ...]  # (role, content), oldest first


@dataclass(frozen=True)
class Generation:
    """A response with all that is needed to attribute it later."""

    id: str
    created: int
    prompt: Prompt
    source_type: str
    prompt_tokens: int
    response_ids: tuple[int, ...]
    response: str
    finish_reason: FinishReason


class RecordStore(Protocol):
    """Keeps generations by id."""

    def put(self, generation: Generation) -> None:
        """Keep a generation."""

    def get(self, generation_id: str) -> Generation | None:
        """The generation of this id, if it is still kept."""

    def delete(self, generation_id: str) -> bool:
        """Forget a generation; whether there was one."""


class MemoryStore:
    """Keeps the latest generations in memory; safe to use from several threads.

    Args:
        capacity: generations kept; the oldest is dropped for a new one.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._records: OrderedDict[str, Generation] = OrderedDict()
        self._lock = Lock()

    def put(self, generation: Generation) -> None:
        """Keep a generation, dropping the oldest beyond the capacity."""
        with self._lock:
            self._records[generation.id] = generation
            while len(self._records) > self._capacity:
                self._records.popitem(last=False)

    def get(self, generation_id: str) -> Generation | None:
        """The generation of this id, if it is still kept."""
        with self._lock:
            return self._records.get(generation_id)

    def delete(self, generation_id: str) -> bool:
        """Forget a generation; whether there was one."""
        with self._lock:
            return self._records.pop(generation_id, None) is not None
