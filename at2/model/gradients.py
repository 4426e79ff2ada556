"""Gradients of a response's log-probability, with respect to the embeddings of its prompt or to
whatever else a pass depends on.

Knows models, token ids and ranges; nothing of text, sources or tasks. Works for every decoder whose
token embedding is a module: the embeddings are taken, and the gradients asked for, where that
module returns them, so that whatever the model does with token ids elsewhere stays its own.

Memory: layers are recomputed on the way back, so the activations of one layer exist at a time and
the hidden states between layers; logits are computed for the target tokens only, a block of them at
a time.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from at2.errors import InputError, UnsupportedModelError
from at2.model.capture import input_device
from at2.model.output_layer import output_only
from at2.model.passes import BACKWARD_COST, before_pass
from at2.model.tokens import MarkedTokens
from at2.model.twin import twin_for_pass

# Memory for the target tokens' logits of one pass: in float32, with their gradient and a temporary.
_LOGIT_BYTES = 512 * 2**20
_COPIES = 4

_T = TypeVar("_T")


@dataclass(frozen=True)
class EmbeddingGradients:
    """What the log-probability of the targets does when an embedding changes a little.

    Attributes:
        embeddings: [tokens, width], as the embedding module returns them; float32 on the CPU
            (float64 from a float64 model).
        gradients: [tokens, width], of the sum of the targets' log-probabilities in nats.
    """

    embeddings: Tensor
    gradients: Tensor


def embedding_gradients(
    model: Any,
    tokens: MarkedTokens,
    *,
    logit_bytes: int = _LOGIT_BYTES,
) -> EmbeddingGradients:
    """The gradient of `Σ_t log p(t | before t)` over the targets, for every token that is read.

    One forward and one backward pass for as many targets as fit `logit_bytes`, usually all. The
    model is left as it was; nothing else may train it meanwhile. Threads take turns with a model.

    Args:
        model: a transformers causal language model in evaluation mode.
        tokens: the sequence, with the target that is scored.
        logit_bytes: memory for the logits of one pass, with what is computed from them.

    Returns:
        Embeddings and gradients of the tokens before the last target, [target end - 1, width].

    Raises:
        InputError: the target is empty.
        UnsupportedModelError: no gradient, or not all of it, reaches the embeddings.
    """
    end, dtype = tokens.target_range[1], torch.promote_types(model.dtype, torch.float32)
    found: EmbeddingGradients | None = None
    passes = over_targets(model, tokens, _embeddings_pass, logit_bytes=logit_bytes)
    for embeddings, gradients in passes:
        # Gradients that barely differ from zero in half precision are added up in full.
        total = torch.zeros(end - 1, gradients.shape[-1], dtype=dtype)
        total[: len(gradients)] = gradients.to(total)
        if found is not None:
            total += found.gradients
        # The last pass has read the most tokens.
        found = EmbeddingGradients(embeddings.to("cpu", dtype), total)
    assert found is not None  # the target is not empty
    return found


def over_targets(
    model: Any,
    tokens: MarkedTokens,
    one_pass: Callable[[Any, Tensor, int], _T],
    *,
    attention: str | None = None,
    logit_bytes: int = _LOGIT_BYTES,
) -> Iterator[_T]:
    """What a pass forward and back finds, for as many targets at a time as fit `logit_bytes`.

    Threads take turns with a model.

    Args:
        model: a transformers causal language model in evaluation mode.
        tokens: the sequence, with the target that is scored.
        one_pass: gets a twin of the model, the ids up to the last target of the pass, and the
            position of the first one.
        attention: the attention implementation of the twin; the model's own by default.
        logit_bytes: memory for the logits of one pass, with what is computed from them.

    Raises:
        InputError: the target is empty.
    """
    ids = tokens.ids.to(input_device(model))
    start, end = tokens.target_range
    if start == end:
        raise InputError(f"target range ({start}, {end}) is empty")
    itemsize = torch.promote_types(model.dtype, torch.float32).itemsize
    vocabulary = model.get_input_embeddings().weight.shape[0]
    step = max(1, logit_bytes // (_COPIES * vocabulary * itemsize))
    for first in range(start, end, step):
        last = min(first + step, end)
        before_pass((last - 1) * (1 + BACKWARD_COST))
        # A twin has its first rotary frequencies, whatever the model has read before.
        with _lock_of(model), twin_for_pass(model, attention) as twin:
            found = one_pass(twin, ids[:last], first)
        yield found


# A pass changes flags of the weights, and afterwards puts back what it found there.
_locks: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()
_locks_lock = threading.Lock()


def _lock_of(model: Any) -> threading.Lock:
    with _locks_lock:
        return _locks.setdefault(model, threading.Lock())


# Hooks are called for passes of other threads, too; these are not ours to change.
_pass: ContextVar[object | None] = ContextVar("at2_gradient_pass", default=None)


def _embeddings_pass(model: Any, ids: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Embeddings and gradients [tokens - 1, width] for the targets from `start` on."""
    leaves: list[Tensor] = []
    this_pass = object()

    def take(_: Any, __: Any, output: Tensor) -> Tensor:
        if _pass.get() is not this_pass:
            return output
        leaf = output.detach().requires_grad_()
        leaves.append(leaf)
        return leaf

    hook = model.get_input_embeddings().register_forward_hook(take)
    token = _pass.set(this_pass)
    try:
        gradient = gradient_of_targets(model, ids, start, leaves, "embeddings")
    finally:
        _pass.reset(token)
        hook.remove()
    return leaves[0].detach()[0], gradient[0]


def gradient_of_targets(
    model: Any, ids: Tensor, start: int, leaves: list[Tensor], name: str
) -> Tensor:
    """One pass forward and one back.

    Args:
        model: a twin that nobody else runs.
        ids: [tokens], on the model's input device.
        start: the first target; the others follow it to the end.
        leaves: the tensor with respect to which gradients are asked for, alone; it may come to be
            there in the pass forward.
        name: what it is, in an error.

    Returns:
        The gradient of `Σ_t log p(t | before t)` over the targets, of the tensor's shape.

    Raises:
        UnsupportedModelError: no gradient, or not all of it, reaches the tensor.
    """
    end = len(ids)

    def targets(hidden: Tensor) -> Tensor | None:
        return hidden[:, start - 1 :] if hidden.shape[-2] == end - 1 else None

    with (
        output_only(model, targets),
        _frozen(model),
        _recomputed(model),
        torch.enable_grad(),
    ):
        logits = model(input_ids=ids[None, : end - 1], use_cache=False).logits[0]
        logits = logits[-(end - start) :].to(torch.promote_types(logits.dtype, torch.float32))
        labels = ids[start:end].to(logits.device)
        log_prob = -torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        if len(leaves) != 1 or not log_prob.requires_grad:
            raise UnsupportedModelError(
                f"{type(model).__name__} does not compute its response from its {name} "
                "in a way that gradients can follow"
            )
        _check_derivatives(model, log_prob)
        (gradient,) = torch.autograd.grad(log_prob, leaves)
    return gradient


def _check_derivatives(model: Any, output: Tensor) -> None:
    """Refuse kernels without a derivative: torch would take it for zero, with a warning at most.

    Such are bitsandbytes' products with four-bit weights on a CPU.

    Raises:
        UnsupportedModelError: there is one on the way.
    """
    waiting, seen = [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if "NotImplemented" in node.name():
            raise UnsupportedModelError(
                f"{type(model).__name__} runs kernels that have no gradient (quantized weights)"
            )
        seen.add(node)
        waiting.extend(parent for parent, _ in node.next_functions)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Ask for no gradients of weights: they would cost as much memory as the weights again."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _recomputed(model: Any) -> Iterator[None]:
    """Keep only the inputs of layers for the way back.

    transformers' own switch for that also looks at a layer's training flag, which in some models
    (OPT) turns on dropout; wrapping `forward` leaves all flags alone.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    wrapped = [(layer, layer.__dict__.get("forward")) for layer in layers]
    for layer in layers:
        layer.forward = partial(
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        yield
    finally:
        for layer, forward in wrapped:
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
