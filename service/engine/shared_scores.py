"""Scores of finished generations that replicas share: what one has computed, none computes again.

They travel as bytes, in NumPy's own format of arrays. Rows of scores are told by the weights they
come of, not by a name: a replica with another estimator of the same name does not take the scores
for its own.
"""

import asyncio
import io
import json
import logging
import zipfile
from dataclasses import replace

import numpy as np

from at2.fingerprints import checksum
from at2.model.weighing import TokenScores, Weighing, Weighings
from service.failures import StoreError
from service.records import ScoreStore

logger = logging.getLogger("at2.service")

_DIGITS = 32

_MOST_OFFERS = 16
"""That wait to be written at once: each holds its scores in memory."""


def _mark(weighing: Weighing) -> str:
    """Tells rows of scores apart."""
    return checksum(weighing.rows_key)[:_DIGITS]


class SharedScores:
    """Takes scores to the store of the replicas, and gets them from there.

    Args:
        weighings: how attention is weighed here.
        store: where scores are kept.
    """

    def __init__(self, weighings: Weighings, store: ScoreStore) -> None:
        self._weighings = weighings.by_name
        self._marks = {name: _mark(weighing) for name, weighing in weighings.by_name.items()}
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._offers: set[asyncio.Task[None]] = set()

    async def find(self, generation_id: str) -> TokenScores | None:
        """A generation's scores by those weighings that there are here, too."""
        try:
            data = await self._store.get_scores(generation_id)
        except StoreError as error:
            logger.error("scores of generation %s are computed again: %s", generation_id, error)
            return None
        if data is None:
            return None
        try:
            return await asyncio.to_thread(self._unpacked, data)
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
            logger.error("scores of generation %s are damaged: %s", generation_id, error)
            return None

    def offer(self, generation_id: str, scores: TokenScores) -> None:
        """Write the scores of a generation for the other replicas, soon; from any thread. Where
        that fails, whoever needs them computes them again."""
        self._loop.call_soon_threadsafe(self._begin, generation_id, scores)

    def close(self) -> None:
        """Abandon what has not been written, from any thread. Safe to call more than once."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._abandon)

    def _abandon(self) -> None:
        for offer in self._offers:
            offer.cancel()

    def _begin(self, generation_id: str, scores: TokenScores) -> None:
        if len(self._offers) >= _MOST_OFFERS:
            logger.warning("scores of generation %s are not shared: too many wait", generation_id)
            return
        offer = asyncio.create_task(self._keep(generation_id, scores))
        self._offers.add(offer)
        offer.add_done_callback(self._offers.discard)

    async def _keep(self, generation_id: str, scores: TokenScores) -> None:
        try:
            data = await asyncio.to_thread(self._packed, scores)
            await self._store.put_scores(generation_id, data)
        except Exception:
            logger.exception("scores of generation %s are not shared", generation_id)

    def _packed(self, scores: TokenScores) -> bytes:
        marks = {place: self._marks[name] for name, place in scores.places.items()}
        header = {
            "marks": [marks[place] for place in sorted(marks)],
            "first_column": scores.first_column,
            "first_target": scores.first_target,
            "query": scores.query,
        }
        no_mean = np.zeros((0, 0), np.float32)
        file = io.BytesIO()
        np.savez(
            file,
            header=np.frombuffer(json.dumps(header).encode(), np.uint8),
            rows=scores.rows,
            query_mean=no_mean if scores.query_mean is None else scores.query_mean,
        )
        return file.getvalue()

    def _unpacked(self, data: bytes) -> TokenScores | None:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            rows, query_mean = arrays["rows"], arrays["query_mean"]
        places = {mark: place for place, mark in enumerate(header["marks"])}
        found = {name: places[mark] for name, mark in self._marks.items() if mark in places}
        if rows.ndim != 3 or len(rows) != len(header["marks"]):
            raise ValueError(f"rows of shape {rows.shape} for {len(header['marks'])} weighings")
        if not found:
            return None
        here = sorted(set(found.values()))
        first, last = header["query"]
        scores = TokenScores(
            {name: self._weighings[name] for name in found},
            {name: here.index(place) for name, place in found.items()},
            rows[here],
            header["first_column"],
            header["first_target"],
            (first, last),
        )
        return scores if not query_mean.size else replace(scores, query_mean=query_mean[here])
