"""Random sets of sources to keep, and what a response's tokens are worth without the rest.

Knows models, token ids and ranges; nothing of text or tasks. The plain way to hide a source is to
mask attention to its tokens. A token that nothing attends to is dropped here instead, while the
others keep their positions: the same result from a shorter sequence. Where that would not be exact
(see `can_drop`), attention is masked.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from at2.attention import attention_shape, probe_ids
from at2.capture import input_device
from at2.errors import InputError, ModelError, UnsupportedModelError

TokenRange = tuple[int, int]
Method = Literal["mask", "remove"]

# Tokens in one forward pass, padding included. On a CPU small passes stay in its caches and are
# padded less; a GPU wants to be filled.
CPU_TOKEN_BUDGET = 2048
GPU_TOKEN_BUDGET = 16_384
# Memory for the target tokens' logits of one forward pass, in float32 with one temporary.
_LOGIT_BYTES = 256 * 2**20
# Below this log-probability, log(1 - p) is best computed from p, above it from 1 - p.
_LOG1MEXP_SWITCH = -0.1

_PROBE_TOKENS = 32
_PROBE_DROPPED = (8, 20)
# Error of dropping as a share of what hiding the tokens changes: rounding, against a wrong position
# or state, which changes about as much as the hiding does.
_PROBE_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.05}
_PROBE_FLOAT_TOLERANCE = 1e-3


def sample_masks(
    num_masks: int, num_sources: int, keep_probability: float = 0.5, seed: int = 0
) -> NDArray[np.bool_]:
    """Independent random masks, the same as the published package's for the same seed.

    Returns:
        [masks, sources], True where a source is kept.
    """
    masks = np.zeros((num_masks, num_sources), dtype=np.bool_)
    for index in range(num_masks):
        random = np.random.RandomState(seed + index)
        masks[index] = random.choice(
            [False, True], size=num_sources, p=[1 - keep_probability, keep_probability]
        )
    return masks


def ablated_logit_probs(
    model: Any,
    input_ids: Tensor | Sequence[int],
    source_ranges: Sequence[TokenRange],
    target_range: TokenRange,
    masks: ArrayLike,
    *,
    method: Method = "mask",
    token_budget: int | None = None,
) -> NDArray[np.floating[Any]]:
    """The logit of each target token's probability, with some sources hidden.

    `logit p = correct logit - logsumexp(other logits)`. With `mask`, hidden tokens receive no
    attention and all tokens keep their positions; with `remove`, hidden tokens are cut out and what
    follows moves up. Masks that occur more than once are computed once.

    Args:
        model: a transformers causal language model in evaluation mode.
        input_ids: [tokens]; those after the target are not used.
        source_ranges: token range of each source, absolute.
        target_range: which tokens are scored; the first token of all cannot be.
        masks: [masks, sources], True where a source is kept.
        method: how to hide.
        token_budget: tokens in one forward pass, by default what suits the device; a longer
            sequence goes alone.

    Returns:
        [masks, targets] in float32 (float64 from a float64 model).

    Raises:
        InputError: a range, the masks or the method do not fit, or removing leaves nothing to
            predict the target from.
    """
    ids = torch.as_tensor(input_ids, dtype=torch.long).cpu()
    kept = np.asarray(masks, dtype=np.bool_)
    start, end = target_range
    _check(len(ids), source_ranges, target_range, kept, method)
    dtype = np.float64 if model.dtype == torch.float64 else np.float32
    if start == end or len(kept) == 0:
        return np.zeros((len(kept), end - start), dtype)
    unique, inverse = np.unique(kept, axis=0, return_inverse=True)

    # 1. Which of the tokens that are read [masks, end - 1] stay visible.
    visible = torch.ones(len(unique), end - 1, dtype=torch.bool)
    for source, (first, last) in enumerate(source_ranges):
        visible[:, first:last] = torch.from_numpy(unique[:, source, None])

    # 2. Drop what is hidden where that is exact; the tokens that predict must be there.
    if method == "remove":
        drops = torch.ones(len(unique), dtype=torch.bool)
        if not visible[:, :start].any(1).all() or not visible[:, start:].all():
            raise InputError("removing sources leaves no token before the target, or cuts it")
    elif can_drop(model, end - 1):
        drops = visible[:, start - 1 :].all(1)
    else:
        drops = torch.zeros(len(unique), dtype=torch.bool)
    lengths = torch.where(drops, visible.sum(1), end - 1)  # [masks]

    # 3. Score batches of similar lengths.
    if token_budget is None:
        on_cpu = input_device(model).type == "cpu"
        token_budget = CPU_TOKEN_BUDGET if on_cpu else GPU_TOKEN_BUDGET
    vocabulary = model.get_input_embeddings().weight.shape[0]
    most_rows = max(1, _LOGIT_BYTES // (2 * (end - start) * vocabulary * 4))
    outputs = torch.zeros(
        len(unique), end - start, dtype=torch.promote_types(model.dtype, torch.float32)
    )
    for dropping in (True, False):
        members = (drops == dropping).nonzero()[:, 0]
        for batch in _batches(members, lengths, token_budget, most_rows):
            inputs = (
                _dropped(ids, visible[batch], start, keep_positions=method == "mask")
                if dropping
                else _masked(ids, visible[batch], start)
            )
            outputs[batch] = _target_logit_probs(model, *inputs, ids[start:end]).to(outputs)
    return outputs.numpy()[inverse.reshape(-1)].astype(dtype, copy=False)


def _check(
    num_tokens: int,
    source_ranges: Sequence[TokenRange],
    target_range: TokenRange,
    masks: NDArray[np.bool_],
    method: str,
) -> None:
    start, end = target_range
    if not 1 <= start <= end <= num_tokens:
        raise InputError(
            f"target range ({start}, {end}) is not within tokens 1 to {num_tokens} "
            "(the first token of all is not predicted from anything)"
        )
    for first, last in source_ranges:
        if not 0 <= first <= last <= num_tokens:
            raise InputError(f"source range ({first}, {last}) is not within {num_tokens} tokens")
    if masks.ndim != 2 or masks.shape[1] != len(source_ranges):
        raise InputError(f"masks of shape {masks.shape} do not fit {len(source_ranges)} sources")
    if method not in ("mask", "remove"):
        raise InputError(f"unknown ablation method {method!r}: not one of mask, remove")


def _batches(
    members: Tensor, lengths: Tensor, token_budget: int, most_rows: int
) -> Iterator[Tensor]:
    """Members in order of length, as many at a time as fit when padded to the longest."""
    order = members[lengths[members].argsort(descending=True, stable=True)]
    first = 0
    while first < len(order):
        longest = max(1, int(lengths[order[first]]))
        count = max(1, min(most_rows, token_budget // longest))
        yield order[first : first + count]
        first += count


def _dropped(
    ids: Tensor, visible: Tensor, start: int, *, keep_positions: bool
) -> tuple[dict[str, Tensor], Tensor]:
    """Model inputs without the hidden tokens, padded on the right, and the predicting rows.

    The attention mask is all ones: padding comes after everything that counts, so the causal mask
    hides it, and without any mask transformers takes gaps in the positions for packed sequences.
    """
    batch, tokens = visible.shape
    longest = int(visible.sum(1).max())
    # Visible tokens first, in order; the hidden ones that follow are the padding.
    positions = (~visible).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    inputs = {
        "input_ids": ids[positions],
        "attention_mask": torch.ones(batch, longest, dtype=torch.long),
    }
    if keep_positions:
        inputs["position_ids"] = positions
    rows = visible.long().cumsum(1)[:, start - 1 : tokens] - 1  # [batch, targets]
    return inputs, rows


def _masked(ids: Tensor, visible: Tensor, start: int) -> tuple[dict[str, Tensor], Tensor]:
    """Model inputs with attention to the hidden tokens masked, and the predicting rows."""
    batch, tokens = visible.shape
    inputs = {
        "input_ids": ids[None, :tokens].expand(batch, -1).contiguous(),
        "attention_mask": visible.long(),
    }
    return inputs, torch.arange(start - 1, tokens).expand(batch, -1)


_pass: ContextVar[object | None] = ContextVar("at2_ablation_pass", default=None)


def _target_logit_probs(
    model: Any, inputs: dict[str, Tensor], rows: Tensor, labels: Tensor
) -> Tensor:
    """Logits of the labels' probabilities [batch, targets] at the predicting rows [batch, targets].

    The rows differ between sequences, so they are picked on the way into the output layer: the
    vocabulary is never multiplied for other tokens, and what the model does after it (caps, scales)
    is the model's own.
    """
    device = input_device(model)
    shape = inputs["input_ids"].shape
    picked = False
    this_pass = object()

    def pick(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal picked
        if _pass.get() is not this_pass or not args or args[0].shape[:-1] != shape:
            return None
        picked = True
        return (_rows(args[0], rows), *args[1:])

    head = model.get_output_embeddings()
    hook = None if head is None else head.register_forward_pre_hook(pick)
    token = _pass.set(this_pass)
    try:
        with torch.no_grad():
            inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
            logits = model(**inputs, use_cache=False).logits
    finally:
        _pass.reset(token)
        if hook is not None:
            hook.remove()
    if not picked:
        logits = _rows(logits, rows)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    index = labels.to(logits.device).expand(len(logits), -1)[..., None]  # [batch, targets, 1]
    correct = logits.gather(-1, index)[..., 0]
    others = logits.scatter_(-1, index, -torch.inf).logsumexp(-1)
    result: Tensor = (correct - others).cpu()
    return result


def _rows(values: Tensor, rows: Tensor) -> Tensor:
    """Pick [batch, targets, ...] of [batch, tokens, ...]."""
    rows = rows.to(values.device)
    return values[torch.arange(len(rows), device=values.device)[:, None], rows]


_droppable: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def can_drop(model: Any, length: int) -> bool:
    """Whether dropping hidden tokens equals masking them, for sequences up to a length.

    It does not where a sliding window or chunk is shorter than the sequence (dropped tokens would
    let others slide into view), where positions follow from the attention mask (OPT), or where
    layers other than attention mix tokens (state-space and convolution layers). The last two are
    found by trying, once per model.
    """
    try:
        window = attention_shape(model).window
    except UnsupportedModelError:
        return False
    if window is not None and length > window:
        return False
    if model not in _droppable:
        _droppable[model] = _dropping_is_exact(model)
    return _droppable[model]


def _dropping_is_exact(model: Any) -> bool:
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return False
    ids = probe_ids(model, _PROBE_TOKENS)
    first, last = _PROBE_DROPPED
    visible = torch.ones(1, _PROBE_TOKENS, dtype=torch.bool)
    full, _ = _masked(ids, visible, 1)
    visible[:, first:last] = False
    masked, _ = _masked(ids, visible, 1)
    dropped, _ = _dropped(ids, visible, 1, keep_positions=True)
    compared = _PROBE_TOKENS - last
    device = input_device(model)

    def logits(inputs: dict[str, Tensor]) -> Tensor:
        inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
        with torch.no_grad():
            output: Tensor = model(**inputs, use_cache=False).logits
        return output[0, -compared:].float()

    reference = logits(masked)
    error = (logits(dropped) - reference).norm().item()
    effect = (logits(full) - reference).norm().item()
    if not np.isfinite(error) or not np.isfinite(effect):
        raise ModelError(f"{type(model).__name__} returns logits that are not finite")
    return bool(error <= _PROBE_TOLERANCE.get(model.dtype, _PROBE_FLOAT_TOLERANCE) * effect)


def sequence_log_probs(logit_probs: ArrayLike) -> NDArray[np.float64]:
    """Log-probability of a token sequence from its tokens' logits, [..., targets] to [...]."""
    # log sigmoid(x) = -log(1 + exp(-x))
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
