"""Examples that are more varied than the rows of a data set: contexts of several rows joined, and
other queries about them.

What is drawn for a row depends on the seed and the row's number, and on nothing else.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trainer_jobs.rows import BadRow, Table, text_in
from trainer_jobs.settings import JobSettings

_BETWEEN_CONTEXTS = "\n\n"


class Mixer:
    """Draws the context, the query and the level of sources of each example.

    Args:
        settings: `join_contexts`, `other_queries`, `other_queries_share`, `source_type`.
        table: the data set.
        kept: numbers of the rows that pass the filters, in the order of the data set.
    """

    def __init__(self, settings: JobSettings, table: Table, kept: Sequence[int]) -> None:
        self._settings = settings
        self._contexts: list[str] = []  # without those that equal the one before
        self._place: dict[int, int] = {}  # of a row's context among them
        if settings.join_contexts > 1:
            self._find_contexts(table, kept)

    def _find_contexts(self, table: Table, kept: Sequence[int]) -> None:
        column = self._settings.texts["context"]
        for index, (place, row) in zip(kept, table.take(kept, [column]), strict=True):
            context = text_in(row, column, place)
            if isinstance(context, BadRow):
                continue
            if not self._contexts or self._contexts[-1] != context:
                self._contexts.append(context)
            self._place[index] = len(self._contexts) - 1

    def mix(self, example: Mapping[str, Any], index: int) -> dict[str, Any]:
        """The example made of a row that can be used."""
        settings = self._settings
        random = np.random.default_rng([settings.shuffle_seed or 0, index])
        mixed = dict(example)
        if index in self._place:
            count = int(random.integers(1, settings.join_contexts + 1))
            before = int(random.integers(0, count))
            last_start = max(0, len(self._contexts) - count)
            start = min(max(0, self._place[index] - before), last_start)
            mixed["context"] = _BETWEEN_CONTEXTS.join(self._contexts[start : start + count])
        if settings.other_queries and random.random() < settings.other_queries_share:
            mixed["query"] = str(random.choice(settings.other_queries))
        if len(settings.source_type) > 1:
            mixed["source_type"] = str(random.choice(settings.source_type))
        return mixed
