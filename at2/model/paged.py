"""Attention of several sequences packed into one step, and scores taken on the way.

transformers' continuous batching runs the new tokens of all sequences as one, with the keys of all
behind each other and a mask that hides each from the others. On a CPU most of that work is for
what the mask hides; here every sequence attends to its own keys alone. Where a sequence gets a new
token, the attention of its last query is the row that a pass over the finished sequence would find
for that token: weighing it here saves that pass. Knows tensors and positions; nothing of requests
or texts.

How it plugs in (transformers 5): the function registered as `sdpa` gets the paged cache as an
argument. Ours takes its place and acts only within `PackedStep.active`: it updates the cache once
and hands the keys on. Every other call goes to the original.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from at2.model.capture import DEFAULT_ROW_BYTES, AttentionCall
from at2.model.weighing import TokenScores, Weighings
from at2.ranges import TokenRange

_CHANGE_WEIGHTS = ("softcap", "s_aux", "position_bias")
"""Arguments that change attention weights in ways that the rows here do not follow."""

_HALF = (torch.float16, torch.bfloat16)
"""Dtypes in which attention is left to the kernel, which keeps more digits on the way."""


class ScoreRecorder:
    """The scores of one response, row by row as it is written.

    Rows are kept by the position of their query and overwritten: a sequence that was put out of the
    cache comes back with its response as a part of its prompt.

    Args:
        weighings: what attention is weighed by.
        columns: the tokens that are scored, as positions in prompt and response.
        query: positions of the prompt whose rows are averaged for contrasts; may be empty.
    """

    def __init__(
        self, weighings: Weighings, columns: TokenRange, query: TokenRange = (0, 0)
    ) -> None:
        self.weighings = weighings
        self.columns = columns
        self.query = query if weighings.contrasted else (0, 0)
        self._asked = query
        self._rows: dict[int, Tensor] = {}
        self._query_sum: Tensor | None = None
        self._query_end = query[0]  # the rows before it are in the sum

    def missing(self, start: int, end: int) -> TokenRange | None:
        """Which of the positions `[start, end)` are missing in the query's mean."""
        first, last = max(start, self._query_end), min(end, self.query[1])
        # After a gap (positions that were found in the cache) the mean stays short of rows.
        return (first, last) if first == self._query_end and first < last else None

    def take_row(self, position: int, row: Tensor) -> None:
        """Keep the row [places, columns] of the query at a position."""
        self._rows[position] = row

    def take_query(self, positions: TokenRange, total: Tensor) -> None:
        """Add the sum [places, columns] of rows that were missing."""
        before = self._query_sum
        self._query_sum = total if before is None else before + total
        self._query_end = positions[1]

    def scores(self, target_range: TokenRange) -> TokenScores | None:
        """What was taken for these tokens of the response; None if there are none or a row is
        missing. Without all rows of the query there are no contrasts."""
        start, end = target_range
        target_rows = [
            row for p in range(start - 1, end - 1) if (row := self._rows.get(p)) is not None
        ]
        if not target_rows or len(target_rows) < end - start:
            return None
        mean = None
        if self._query_sum is not None and self._query_end == self.query[1]:
            mean = (self._query_sum / (self.query[1] - self.query[0])).cpu().numpy()
        return TokenScores(
            self.weighings.by_name,
            self.weighings.places,
            torch.stack(target_rows, dim=1).cpu().numpy(),
            self.columns[0],
            start,
            self._asked,
            mean,
        )


@dataclass(frozen=True)
class PackedPiece:
    """What one sequence adds in a step.

    Attributes:
        start: position of its first query in its sequence.
        length: queries.
        predicts: whether a token is predicted from the last.
        recorder: who takes its scores, if anyone.
    """

    start: int
    length: int
    predicts: bool
    recorder: ScoreRecorder | None = None

    @property
    def end(self) -> int:
        """Position after its last query."""
        return self.start + self.length


@dataclass(frozen=True)
class _Sum:
    """Rows that are summed over queries and layers: which, for whom, and the sum so far.

    Attributes:
        piece: the number of their piece.
        recorder: who gets the sum.
        positions: of the queries in their sequence.
        of_query: whether they are the query's, or else the row of a prediction.
        total: [weighings, columns].
    """

    piece: int
    recorder: ScoreRecorder
    positions: TokenRange
    of_query: bool
    total: Tensor


class PackedStep:
    """One pass over the new tokens of several sequences.

    Args:
        pieces: in the order in which they are packed.
        key_bounds: per kind of layer where each sequence's keys begin, and where the last end.
        split: let every sequence attend by itself; good on a CPU, where a call costs little and
            arithmetic much.
        row_bytes: memory for one block of one layer's attention rows.
    """

    def __init__(
        self,
        pieces: Sequence[PackedPiece],
        key_bounds: Sequence[Sequence[int]],
        *,
        split: bool = True,
        row_bytes: int = DEFAULT_ROW_BYTES,
    ) -> None:
        self._pieces = pieces
        # A window never adds keys: kinds of layers with as many keys in all have the same bounds.
        self._key_bounds = {bounds[-1]: bounds for bounds in key_bounds}
        self._query_bounds = list(itertools.accumulate((p.length for p in pieces), initial=0))
        # Recorders of one model have the same weighings.
        self._weighings = next((p.recorder.weighings for p in pieces if p.recorder), None)
        self._split = split
        self._row_bytes = row_bytes
        self._layer = 0
        self._exact = True
        self._sums = [self._sums_of(number) for number in range(len(pieces))]
        self._predictions = [s for sums in self._sums for s in sums if not s.of_query]
        self._pooled: dict[int, Tensor] = {}  # by keys in all: [weighings, predictions, keys]

    def _sums_of(self, number: int) -> list[_Sum]:
        """What to take from one piece."""
        piece, weighings = self._pieces[number], self._weighings
        recorder = piece.recorder
        if recorder is None or weighings is None:
            return []
        size = len(weighings), max(0, recorder.columns[1] - recorder.columns[0])
        wanted = [(recorder.missing(piece.start, piece.end), True)]
        if piece.predicts:
            wanted.append(((piece.end - 1, piece.end), False))
        return [
            _Sum(number, recorder, at, of_query, torch.zeros(size, device=weighings.device))
            for at, of_query in wanted
            if at is not None
        ]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Run the model's pass within this; recorders get their rows when it has succeeded."""
        token = _step.set(self)
        try:
            yield
        finally:
            _step.reset(token)
        self._hand_over()

    def _hand_over(self) -> None:
        weighings = self._weighings
        if weighings is None or not self._exact or self._layer != weighings.num_layers:
            return
        for num_keys, pooled in self._pooled.items():
            for place, wanted in enumerate(self._predictions):
                start, end = self._keys(num_keys, wanted.piece)
                self._add(wanted, pooled[:, place : place + 1, start:end])
        for wanted in itertools.chain(*self._sums):
            if wanted.of_query:
                wanted.recorder.take_query(wanted.positions, wanted.total)
            else:
                wanted.recorder.take_row(wanted.positions[0], wanted.total)

    # -- one layer -----------------------------------------------------------------------------

    def attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        kwargs: dict[str, Any],
    ) -> Tensor:
        """The output [1, queries, heads, dim] of the next layer, whose rows are taken.

        Args:
            query: [1, heads, queries, dim].
            key, value: [1, key heads, keys, dim], those from the cache included.
            mask: additive [1, 1, queries, keys].
            kwargs: what else the layer gave.
        """
        layer, self._layer = self._layer, self._layer + 1
        changed = any(kwargs.get(name) is not None for name in _CHANGE_WEIGHTS)
        known = mask is not None and not changed and key.shape[2] in self._key_bounds
        self._exact &= known
        if known and mask is not None:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            if self._split:
                return self._attend_each(module, layer, query, key, value, mask, scale)
            self._take_packed(layer, AttentionCall(query, key, mask, scale))
        output: Tensor = sdpa_attention_forward(
            module, query, key, value, mask, scaling=scaling, **kwargs
        )[0]
        return output

    def _attend_each(
        self,
        module: Any,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor,
        scale: float,
    ) -> Tensor:
        """The output of every sequence by itself, and its rows."""
        outputs = []
        for number, piece in enumerate(self._pieces):
            call, keys = self._part(number, AttentionCall(query, key, mask, scale))
            first = self._first_explicit(number, call)
            if first:
                output, _ = sdpa_attention_forward(
                    module,
                    call.query[:, :, :first],
                    call.key,
                    value[:, :, keys],
                    None if call.mask is None else call.mask[:, :, :first],
                    scaling=scale,
                    is_causal=False,
                )
                outputs.append(output)
            for start, end in call.blocks(first, piece.length, self._row_bytes):
                rows = self._attend_rows(layer, number, call, value[:, :, keys], start, end)
                outputs.append(rows)
            if first == piece.length:
                for wanted in self._sums[number]:
                    self._take(layer, wanted, call)
        return torch.cat(outputs, dim=1)

    def _first_explicit(self, number: int, call: AttentionCall) -> int:
        """The query of a piece from which on attention is written out, since rows of it are taken.

        Those before it are left to the kernel, and in half precision all.
        """
        piece = self._pieces[number]
        if call.query.dtype in _HALF:
            return piece.length
        if piece.length == 1:
            return 0
        starts = (wanted.positions[0] - piece.start for wanted in self._sums[number])
        return min(starts, default=piece.length)

    def _attend_rows(
        self, layer: int, number: int, call: AttentionCall, value: Tensor, start: int, end: int
    ) -> Tensor:
        """The output [1, rows, heads, dim] of the queries `[start, end)`, whose rows are taken."""
        piece = self._pieces[number]
        if piece.length == 1:
            # A single new query sees all of the keys that there are: no mask.
            call = AttentionCall(call.query, call.key, None, call.scaling, causal=False)
        rows = call.rows(start, end)[0]
        for wanted in self._sums[number]:
            first, last = (position - piece.start for position in wanted.positions)
            first, last = max(first, start), min(last, end)
            if first < last:
                self._weigh(layer, wanted, rows[:, first - start : last - start])
        heads, num_keys = rows.shape[0], rows.shape[2]
        # Query heads that share a key head stand side by side: one product serves them all.
        output = rows.view(value.shape[1], -1, num_keys) @ value[0]
        return output.view(1, heads, end - start, -1).transpose(1, 2)

    def _take_packed(self, layer: int, call: AttentionCall) -> None:
        """Take the rows of all sequences: those of predictions at once, since launches cost more
        than the arithmetic. They are told apart after the last layer."""
        for wanted in itertools.chain(*self._sums):
            if wanted.of_query:
                self._take(layer, wanted, self._part(wanted.piece, call)[0])
        if not self._predictions or self._weighings is None or call.mask is None:
            return
        places = [self._query_bounds[wanted.piece + 1] - 1 for wanted in self._predictions]
        num_keys = call.key.shape[2]
        last = AttentionCall(
            call.query[:, :, places], call.key, call.mask[:, :, places], call.scaling
        )
        if num_keys not in self._pooled:
            self._pooled[num_keys] = torch.zeros(
                len(self._weighings), len(places), num_keys, device=call.query.device
            )
        for start, end in last.blocks(0, len(places), self._row_bytes):
            rows = last.rows(start, end)[0]  # [heads, predictions, keys]
            self._pooled[num_keys][:, start:end] += self._weighings.weigh(layer, rows)

    # -- parts ---------------------------------------------------------------------------------

    def _keys(self, num_keys: int, piece: int) -> TokenRange:
        """Where the keys of a sequence are, in a layer with so many keys in all."""
        bounds = self._key_bounds[num_keys]
        return bounds[piece], bounds[piece + 1]

    def _part(self, piece: int, call: AttentionCall) -> tuple[AttentionCall, slice]:
        """The part of a packed call that is of one sequence, and where its keys are."""
        queries = slice(self._query_bounds[piece], self._query_bounds[piece + 1])
        keys = slice(*self._keys(call.key.shape[2], piece))
        mask = None if call.mask is None else call.mask[:, :, queries, keys]
        part = AttentionCall(call.query[:, :, queries], call.key[:, :, keys], mask, call.scaling)
        return part, keys

    def _take(self, layer: int, wanted: _Sum, call: AttentionCall) -> None:
        """Add the wanted rows of one sequence, block by block."""
        offset = self._pieces[wanted.piece].start
        first, last = (position - offset for position in wanted.positions)
        for start, end in call.blocks(first, last, self._row_bytes):
            self._weigh(layer, wanted, call.rows(start, end)[0])

    def _weigh(self, layer: int, wanted: _Sum, rows: Tensor) -> None:
        """Add rows [heads, rows, keys] of one sequence."""
        if self._weighings is not None:
            columns, rows = self._overlap(wanted, rows)
            self._weighings.add(layer, rows, wanted.total[:, columns])

    def _add(self, wanted: _Sum, weighed: Tensor) -> None:
        """Add weighed rows [weighings, rows, keys] of one sequence."""
        columns, weighed = self._overlap(wanted, weighed)
        wanted.total[:, columns] += weighed.sum(1)

    def _overlap(self, wanted: _Sum, rows: Tensor) -> tuple[slice, Tensor]:
        """The columns that keys of a layer are of, and rows [..., keys] of these keys alone."""
        end = self._pieces[wanted.piece].end
        first = end - rows.shape[-1]  # a window leaves earlier keys out
        low, high = wanted.recorder.columns
        start, stop = max(low, first), min(high, end)
        stop = max(start, stop)
        return slice(start - low, stop - low), rows[..., start - first : stop - first]


_step: ContextVar[PackedStep | None] = ContextVar("at2_packed_step", default=None)


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function registered as `sdpa`: the step's own where there is one, else the original."""
    step, cache = _step.get(), kwargs.get("cache")
    if step is None or cache is None:
        output: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return output
    del kwargs["cache"]
    key, value = cache.update(
        key_states=key, value_states=value, layer_idx=module.layer_idx, kwargs=kwargs
    )
    return step.attend(module, query, key, value, attention_mask, scaling, kwargs), None


AttentionInterface.register("sdpa", _attention)
