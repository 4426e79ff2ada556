"""Scores of finished generations, kept in memory up to a number of bytes.

The scores of tokens serve every kind of source, and every method that weighs attention. An
attributor holds those of its sources, [target tokens, sources] on the CPU, so a later span needs no
pass over the model, and several threads may ask it at once. One that needs passes for every span is
the worker thread's alone. What is pushed out is computed again when it is asked for. Knows
attributors, not how they come about.
"""

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

from at2.methods import (
    Attributor,
    HopsAttributor,
    TokenScoreAttributor,
)
from at2.model.weighing import TokenScores
from at2.tasks import AttributionTask, ContextAttributionTask

_BYTES_PER_TOKEN = 300
"""What a task keeps for a token of prompt or response: its id, its characters, the text."""

_BYTES_PER_SOURCE = 500
"""What a task keeps for a source: its span, its text, its tokens."""

_FLOAT_BYTES = 4

_FORGOTTEN_IDS = 4096
"""Forgotten generations that a pass in progress must not bring back."""

_RECENT_SPANS = 64
"""Spans whose scores a method without a matrix keeps."""


_Kept = Attributor | TokenScores | ContextAttributionTask


@dataclass(frozen=True)
class ScoreKey:
    """What scores depend on; what does not apply is empty.

    Attributes:
        generation_id: the generation.
        source_type: what its context is cut into.
        method: the attribution method.
        estimator: name of the estimator, empty for a method that needs none.
        hops: over how many statements they are carried on.
    """

    generation_id: str
    source_type: str
    method: str
    estimator: str
    hops: int = 0


def size_of(kept: Attributor | TokenScores | AttributionTask) -> int:
    """About how many bytes of memory something takes; an attributor counts with its task."""
    if isinstance(kept, TokenScores):
        return kept.nbytes
    task = kept.task if isinstance(kept, Attributor) else kept
    size = task.num_sources * _BYTES_PER_SOURCE + len(task.token_ids) * _BYTES_PER_TOKEN
    targets, numbers = len(task.target_ids), 0
    if isinstance(kept, TokenScoreAttributor):
        numbers = 2 * targets * task.num_sources  # it has its matrix both ways round
    elif isinstance(kept, Attributor):
        rows = _RECENT_SPANS + (targets if isinstance(kept, HopsAttributor) else 0)
        numbers = rows * task.num_sources
    return size + numbers * _FLOAT_BYTES


class ScoreCache:
    """The scores used last; safe to use from several threads.

    Args:
        capacity: bytes. What is larger on its own is not kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[ScoreKey, tuple[_Kept, int]] = OrderedDict()
        self._bytes = 0
        self._forgotten: deque[str] = deque(maxlen=_FORGOTTEN_IDS)
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._bytes

    def get(self, key: ScoreKey) -> Any:
        """What is kept under a key, which makes it the one used last; None if nothing is."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def put(self, key: ScoreKey, kept: _Kept) -> None:
        """Keep something, and let go of what was used longest ago."""
        size = size_of(kept)
        with self._lock:
            self._drop(key)
            if size > self._capacity or key.generation_id in self._forgotten:
                return
            self._entries[key] = (kept, size)
            self._bytes += size
            while self._bytes > self._capacity:
                self._drop(next(iter(self._entries)))

    def forget(self, generation_id: str) -> None:
        """Let go of everything about a generation, for good."""
        with self._lock:
            self._forgotten.append(generation_id)
            for key in [key for key in self._entries if key.generation_id == generation_id]:
                self._drop(key)

    def _drop(self, key: ScoreKey) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry[1]
