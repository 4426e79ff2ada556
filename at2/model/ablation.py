"""Random sets of sources to keep, and what a response's tokens are worth without the rest.

Knows models, token ids and ranges; nothing of text or tasks. The plain way to hide a source is to
mask attention to its tokens. A token that nothing attends to is dropped here instead, while the
others keep their positions: the same result from a shorter sequence. Where that would not be exact
(see `hiding.can_drop`), attention is masked. What is found for one mask does not depend on those
that share its pass.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from at2.errors import InputError
from at2.model.capture import input_device
from at2.model.hiding import attention_for_hiding, can_drop, check_hides, dropped, masked
from at2.model.output_layer import output_only
from at2.model.passes import before_pass
from at2.model.positions import frequencies
from at2.model.tokens import MarkedTokens
from at2.model.twin import twin_for_pass
from at2.progress import Progress, silent

Method = Literal["mask", "remove"]

CPU_TOKEN_BUDGET = 512
"""Tokens in one forward pass on a CPU, padding included: larger passes are no faster there, take
more memory, and are padded more."""

GPU_TOKEN_BUDGET = 16_384
"""The same on a GPU, which wants to be filled."""

# Memory for target tokens' logits in float32; with the temporaries, twice as much is taken. Further
# ones cost a pass over one token, which is nothing on a CPU and tells on a GPU.
_CPU_LOGIT_BYTES = 16 * 2**20
_GPU_LOGIT_BYTES = 512 * 2**20
# Below this log-probability, log(1 - p) is best computed from p, above it from 1 - p.
_LOG1MEXP_SWITCH = -0.1


def sample_masks(
    num_masks: int, num_sources: int, keep_probability: float = 0.5, seed: int = 0
) -> NDArray[np.bool_]:
    """Independent random masks, the same as the published package's for the same seed.

    Returns:
        [masks, sources], True where a source is kept.

    Raises:
        InputError: the probability is not between 0 and 1.
    """
    if not 0 <= keep_probability <= 1:
        raise InputError(f"keep probability is {keep_probability}, not between 0 and 1")
    masks = np.zeros((num_masks, num_sources), dtype=np.bool_)
    for index in range(num_masks):
        random = np.random.RandomState(seed + index)
        masks[index] = random.choice(
            [False, True], size=num_sources, p=[1 - keep_probability, keep_probability]
        )
    return masks


@dataclass(frozen=True)
class Ablations:
    """What to hide from one sequence, and whose probability to measure.

    Attributes:
        tokens: the sequence, with its sources and the target that is measured.
        masks: [masks, sources], True where a source is kept.
    """

    tokens: MarkedTokens
    masks: ArrayLike


def ablated_logit_probs(
    model: Any,
    tokens: MarkedTokens,
    masks: ArrayLike,
    *,
    method: Method = "mask",
    token_budget: int | None = None,
    description: str | None = None,
) -> NDArray[np.floating[Any]]:
    """The logit of each target token's probability, with some sources hidden.

    `logit p = correct logit - logsumexp(other logits)`. With `mask`, hidden tokens receive no
    attention and all tokens keep their positions; with `remove`, hidden tokens are cut out and what
    follows moves up. Masks that occur more than once are computed once.

    Args:
        model: a transformers causal language model in evaluation mode.
        tokens: the sequence, with its sources and the target that is measured.
        masks: [masks, sources], True where a source is kept.
        method: how to hide.
        token_budget: tokens in one forward pass, by default what suits the device; a longer
            sequence goes alone.
        description: what progress is shown under; by default none is shown.

    Returns:
        [masks, targets] in float32 (float64 from a float64 model).

    Raises:
        InputError: the masks or the method do not fit, or removing leaves nothing to
            predict the target from.
        UnsupportedModelError: the model cannot hide tokens.
    """
    return ablated_logit_probs_of_many(
        model,
        [Ablations(tokens, masks)],
        method=method,
        token_budget=token_budget,
        description=description,
    )[0]


def ablated_logit_probs_of_many(
    model: Any,
    ablations: Sequence[Ablations],
    *,
    method: Method = "mask",
    token_budget: int | None = None,
    description: str | None = None,
) -> list[NDArray[np.floating[Any]]]:
    """`ablated_logit_probs` of several sequences, whose ablations share forward passes.

    Args:
        model, method, token_budget, description: see `ablated_logit_probs`.

    Returns:
        Per sequence [masks, targets].

    Raises:
        InputError, UnsupportedModelError: see `ablated_logit_probs`.
    """
    dtype = np.float64 if model.dtype == torch.float64 else np.float32
    cases = [_Case.of(model, each, method) for each in ablations]
    outputs = [torch.zeros(len(c.visible), len(c.labels), dtype=torch.float64) for c in cases]
    if token_budget is None:
        token_budget = default_token_budget(model)
    vocabulary = model.get_input_embeddings().weight.shape[0]
    on_cpu = input_device(model).type == "cpu"
    logit_bytes = _CPU_LOGIT_BYTES if on_cpu else _GPU_LOGIT_BYTES
    most_targets = max(1, logit_bytes // (vocabulary * 4))
    rows = {
        dropping: [
            _row(model, number, case, mask, method)
            for number, case in enumerate(cases)
            for mask in (case.drops == dropping).nonzero()[:, 0].tolist()
            if len(case.labels)
        ]
        for dropping in (True, False)
    }
    shown = silent() if description is None else nullcontext()
    total = sum(map(len, rows.values()))
    with shown, Progress(total, description or "Ablations", brief=True) as progress:
        for dropping, of_kind in rows.items():
            for batch in _batches(of_kind, token_budget):
                before_pass(len(batch) * batch[0].length)
                inputs, picks = _inputs(cases, batch, dropping, keep_positions=method == "mask")
                labels = torch.cat([cases[row.case].labels for row in batch])
                logit_probs = _target_logit_probs(model, inputs, picks, labels, most_targets)
                parts = torch.split(logit_probs, [row.targets for row in batch])
                for row, values in zip(batch, parts, strict=True):
                    outputs[row.case][row.mask] = values
                progress.update(len(batch))
    return [
        output[case.inverse].numpy().astype(dtype)
        for case, output in zip(cases, outputs, strict=True)
    ]


def default_token_budget(model: Any) -> int:
    """Tokens in one forward pass that suit the device of a model."""
    return CPU_TOKEN_BUDGET if input_device(model).type == "cpu" else GPU_TOKEN_BUDGET


@dataclass(frozen=True)
class _Case:
    """One sequence with its different masks.

    Attributes:
        ids: [tokens] that are read: all before the last target.
        start: the first target.
        labels: [targets] ids.
        visible: [masks, tokens].
        drops: [masks], whether hidden tokens are dropped, or attention to them masked.
        lengths: [masks], tokens that go into the model.
        inverse: per mask that was asked for, its row among the different ones.
    """

    ids: Tensor
    start: int
    labels: Tensor
    visible: Tensor
    drops: Tensor
    lengths: Tensor
    inverse: NDArray[np.intp]

    @classmethod
    def of(cls, model: Any, ablations: Ablations, method: Method) -> "_Case":
        tokens = ablations.tokens
        ids, sources = tokens.ids, tokens.source_ranges
        kept = np.asarray(ablations.masks, dtype=np.bool_)
        start, end = tokens.target_range
        if kept.ndim != 2 or kept.shape[1] != len(sources):
            raise InputError(f"masks of shape {kept.shape} do not fit {len(sources)} sources")
        if method not in get_args(Method):
            raise InputError(f"unknown ablation method {method!r}: not one of mask, remove")
        if start == end:
            kept = kept[:, :0]  # nothing is measured
            sources = ()
        unique, inverse = np.unique(kept, axis=0, return_inverse=True)

        # 1. Which of the tokens that are read stay visible.
        visible = torch.ones(len(unique), end - 1, dtype=torch.bool)
        for source, (first, last) in enumerate(sources):
            visible[:, first:last] = torch.from_numpy(unique[:, source, None])

        # 2. Drop what is hidden where that is exact; the tokens that predict must be there.
        if method == "remove":
            drops = torch.ones(len(unique), dtype=torch.bool)
            if not visible[:, :start].any(1).all() or not visible[:, start:].all():
                raise InputError("removing sources leaves no token before the target, or cuts it")
        elif can_drop(model, end - 1):
            drops = visible[:, start - 1 :].all(1)
        else:
            if not visible.all():
                check_hides(model)
            drops = torch.zeros(len(unique), dtype=torch.bool)
        lengths = torch.where(drops, visible.sum(1), end - 1)
        return cls(
            ids[: end - 1], start, ids[start:end], visible, drops, lengths, inverse.reshape(-1)
        )


class _Row(NamedTuple):
    """One mask of one case: its length in tokens, its targets, and its rotary frequencies."""

    case: int
    mask: int
    length: int
    targets: int
    frequencies: tuple[int, ...]


def _row(model: Any, number: int, case: _Case, mask: int, method: Method) -> _Row:
    length = int(case.lengths[mask])
    last_position = length if method == "remove" else len(case.ids)
    return _Row(number, mask, length, len(case.labels), frequencies(model, last_position))


def _batches(rows: list[_Row], token_budget: int) -> Iterator[list[_Row]]:
    """Rows of the same frequencies in order of length, as many at a time as fit when padded to the
    longest."""
    # Stable: by case and mask where equal.
    order = sorted(rows, key=lambda row: (row.frequencies, -row.length))
    batch: list[_Row] = []
    for row in order:
        full = batch and (len(batch) + 1) * batch[0].length > token_budget
        if full or (batch and row.frequencies != batch[0].frequencies):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _inputs(
    cases: Sequence[_Case], batch: Sequence[_Row], dropping: bool, *, keep_positions: bool
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Model inputs for a batch, padded on the right, and where in them the targets are predicted.

    Padding comes after everything that counts, so the causal mask hides it.
    """
    longest = batch[0].length
    parts = []
    for row in batch:
        ids, visible = cases[row.case].ids, cases[row.case].visible[row.mask]
        if dropping:
            parts.append(dropped(ids, visible, longest, keep_positions=keep_positions))
        else:
            parts.append(masked(ids, visible, longest))
    inputs = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
    places = []
    for row in batch:
        # The targets are predicted by the last tokens that are read, each by the one before it.
        case = cases[row.case]
        read = int(case.visible[row.mask].sum()) if dropping else len(case.ids)
        places.append(torch.arange(read - row.targets, read))
    sequences = torch.repeat_interleave(
        torch.arange(len(batch)), torch.tensor([row.targets for row in batch])
    )
    return inputs, (sequences, torch.cat(places))


def _target_logit_probs(
    model: Any,
    inputs: dict[str, Tensor],
    places: tuple[Tensor, Tensor],
    labels: Tensor,
    most_targets: int,
) -> Tensor:
    """Logits of the probabilities of `labels` [targets], predicted at (sequence, token) `places`.

    Only hidden states that predict a target enter the output layer. Where even these are too many
    at once, further ones enter in place of a made-up token's, one pass over one token for each
    chunk.
    """
    device = input_device(model)
    waiting: list[Tensor] = []
    picked = False
    shape = inputs["input_ids"].shape

    def next_targets(hidden: Tensor) -> Tensor | None:
        nonlocal picked
        if hidden.shape[:-1] != shape:
            return None
        if not picked:
            picked = True
            waiting.extend(torch.split(_at(hidden, places), most_targets))
        return waiting.pop(0)[None]

    results = []
    with (
        twin_for_pass(model, attention_for_hiding(model)) as twin,
        output_only(twin, next_targets),
        torch.no_grad(),
    ):
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        logits = twin(**inputs, use_cache=False).logits
        chunks = torch.split(labels.to(logits.device), most_targets)
        if not picked:
            logits = _at(logits, places)[None]
            chunks = (labels.to(logits.device),)
        for number, chunk in enumerate(chunks):
            if number > 0:
                one = torch.zeros(1, 1, dtype=torch.long, device=device)
                shape = one.shape
                logits = twin(input_ids=one, use_cache=False).logits
            results.append(_logit_probs(logits[0], chunk).cpu())
            del logits
    return torch.cat(results)


def _logit_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits of the labels' probabilities [targets] from all logits [targets, vocabulary]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    index = labels[:, None]
    correct = logits.gather(-1, index)[:, 0]
    return correct - logits.scatter_(-1, index, -torch.inf).logsumexp(-1)


def _at(values: Tensor, places: tuple[Tensor, Tensor]) -> Tensor:
    """Pick [targets, ...] of [batch, tokens, ...]."""
    sequences, tokens = (place.to(values.device) for place in places)
    return values[sequences, tokens]


def sequence_log_probs(logit_probs: ArrayLike) -> NDArray[np.float64]:
    """Log-probability of a token sequence from its tokens' logits, [..., targets] to [...]."""
    # log sigmoid(x) = -log(1 + exp(-x))
    with np.errstate(invalid="ignore"):  # what is not a number stays so
        log_probs = -np.logaddexp(0.0, -np.asarray(logit_probs, dtype=np.float64))
    return np.asarray(log_probs.sum(axis=-1))


def aggregate_logit_probs(logit_probs: ArrayLike) -> NDArray[np.float64]:
    """Logit of a token sequence's probability from its tokens' logits, [..., targets] to [...].

    `log p - log(1 - p)` with `p` the product of the tokens' probabilities: the target output of
    AT2 (arXiv 2504.13752). Infinite for no tokens, whose probability is 1.
    """
    log_p = sequence_log_probs(logit_probs)
    with np.errstate(divide="ignore"):
        log_1mp = np.where(
            log_p > _LOG1MEXP_SWITCH,
            np.log(-np.expm1(np.minimum(log_p, 0.0))),
            np.log1p(-np.exp(np.minimum(log_p, _LOG1MEXP_SWITCH))),
        )
    return np.asarray(log_p - log_1mp)
