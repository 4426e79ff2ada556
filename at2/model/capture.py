"""A window into every attention layer of a transformers model, for one forward pass.

An attention function and a mask function are registered with transformers under one name. A pass
runs on a twin of the model that bears that name, and computes what the ordinary kernel would; while
a capture is active in the calling context, each layer first hands over what its attention weights
follow from. The model itself is not touched, so that other threads may run it meanwhile. Knows
nothing of what the weights are used for, and materialises none unless asked for rows of them.

How the pieces fit (transformers 5): a layer looks up the function for `config._attn_implementation`
and calls it with the query and key after normalisation and rotary embedding; the model builds its
mask with the mask function registered under the same name.
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from at2.model.local_masks import LocalMask
from at2.model.twin import twin_for_pass
from at2.ranges import TokenRange

NAME = "at2_capture"
"""The name under which transformers knows the attention and mask functions."""

DEFAULT_ROW_BYTES = 256 * 2**20
"""Memory that one layer's attention rows may take while they are reduced."""

# Copies of a block of rows that exist at once: logits, mask, softmax, and one to spare.
_COPIES = 4


@dataclass(frozen=True)
class AttentionCall:
    """What the attention weights of one layer follow from.

    Attributes:
        query: [batch, heads, tokens, dim], ready to be multiplied.
        key: [batch, key heads, keys, dim]; every key head serves `heads / key heads` query heads.
        mask: boolean (True: visible) or additive, [batch, 1 or heads, tokens, keys], or one that
            is made row by row; None where every token sees itself and all before it, or all tokens
            if `causal` is False.
        scaling: factor of the dot products.
        softcap: logits are squashed to ±softcap by tanh (Gemma 2), if given.
        sinks: [heads] logits that take part in the softmax and belong to no token (gpt-oss).
        bias: additive, broadcastable to [batch, heads, tokens, keys].
        row_bias: makes what is added besides, [rows, keys], of ranges of tokens and of keys.
        causal: what a missing mask means.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | LocalMask | None
    scaling: float
    softcap: float | None = None
    sinks: Tensor | None = None
    bias: Tensor | None = None
    row_bias: Callable[[TokenRange, TokenRange], Tensor] | None = None
    causal: bool = True

    @property
    def num_heads(self) -> int:
        """Attention heads of the layer."""
        return self.query.shape[1]

    def rows(self, start: int, end: int) -> Tensor:
        """Attention weights of the query positions `[start, end)`, in at least float32.

        Returns:
            [batch, heads, end - start, keys]; keys after the last visible one may be left out.
        """
        weights, low = self._visible_rows(start, end)
        return torch.nn.functional.pad(weights, (low, 0)) if low else weights

    def _visible_rows(self, start: int, end: int) -> tuple[Tensor, int]:
        """`rows` without the first keys that none of them sees, and how many keys that leaves
        out."""
        batch, heads, _, dim = self.query.shape
        plain_causal = self.mask is None and self.causal
        local = isinstance(self.mask, LocalMask)
        keys = end if plain_causal or local else self.key.shape[2]
        low = self.mask.first_key(start) if isinstance(self.mask, LocalMask) else 0
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        query = self.query[:, :, start:end].to(dtype) * self.scaling
        key = self.key[:, :, low:keys].to(dtype)
        # Query heads that share a key head stand side by side: one product serves them all.
        grouped = query.reshape(batch, key.shape[1], -1, dim)
        logits = (grouped @ key.transpose(2, 3)).view(batch, heads, end - start, keys - low)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        if self.bias is not None:
            logits = logits + self.bias[..., start:end, low:keys]
        if self.row_bias is not None:
            logits = logits + self.row_bias((start, end), (low, keys))
        # The lowest finite number and not -inf, as in eager attention: a row that sees nothing
        # becomes uniform instead of NaN.
        hidden = torch.finfo(dtype).min
        if plain_causal:
            later = torch.ones(end - start, end - start, dtype=torch.bool, device=logits.device)
            logits[..., start:].masked_fill_(later.triu(1), hidden)
        elif self.mask is not None:
            if isinstance(self.mask, LocalMask):
                mask = self.mask.rows(start, end)
            else:
                mask = self.mask[..., start:end, :keys]
            if mask.dtype == torch.bool:
                logits = logits.masked_fill_(~mask, hidden)
            else:
                logits = logits + mask
        if self.sinks is None:
            return logits.softmax(-1), low
        sinks = self.sinks.to(logits).view(1, heads, 1, 1).expand(batch, heads, end - start, 1)
        return torch.cat([logits, sinks], dim=-1).softmax(-1)[..., :-1], low

    def blocks(self, start: int, end: int, row_bytes: int) -> Iterator[tuple[int, int]]:
        """Cut rows `[start, end)` so that computing one block takes about `row_bytes` at most."""
        batch, heads, _, _ = self.query.shape
        itemsize = torch.promote_types(self.query.dtype, torch.float32).itemsize
        step = max(1, row_bytes // (_COPIES * batch * heads * self.key.shape[2] * itemsize))
        for first in range(start, end, step):
            yield first, min(first + step, end)

    def output(self, value: Tensor, row_bytes: int = DEFAULT_ROW_BYTES) -> Tensor:
        """The layer's output [batch, tokens, heads, value dim], block by block.

        For softcaps and sinks, which torch's kernel does not know. Where gradients are asked for
        and there are several blocks, they are computed again on the way back: the weights of one
        block exist at a time.
        """
        blocks = list(self.blocks(0, self.query.shape[2], row_bytes))
        rows = self._output_rows
        if len(blocks) > 1 and torch.is_grad_enabled():
            rows = partial(checkpoint, rows, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([rows(value, *block) for block in blocks], dim=1)

    def _output_rows(self, value: Tensor, start: int, end: int) -> Tensor:
        """The output [batch, end - start, heads, value dim] of the query positions."""
        rows, low = self._visible_rows(start, end)  # [batch, heads, rows, keys]
        weights = rows.to(value.dtype).reshape(value.shape[0], value.shape[1], -1, rows.shape[-1])
        # [batch, key heads, groups × rows, keys]
        part = weights @ value[:, :, low : low + rows.shape[-1]]
        return part.view(value.shape[0], self.num_heads, end - start, -1).transpose(1, 2)


class _LastLayerSeen(Exception):  # noqa: N818 (control flow, not an error)
    """Ends a forward pass once the last layer of interest has been seen."""


class _Capture:
    """The layers seen so far in one forward pass, and who wants them.

    `local_from` is the length from which on masks of local attention are not built whole, as a
    multiple of their window; None if they always are.
    """

    def __init__(
        self,
        on_layer: Callable[[int, AttentionCall], None],
        stop_after: int | None,
        local_from: float | None,
    ) -> None:
        self._on_layer = on_layer
        self._stop_after = stop_after
        self.local_from = local_from
        self.num_layers = 0
        self.windows: set[int] = set()

    def receive(self, call: AttentionCall) -> None:
        self._on_layer(self.num_layers, call)
        self.num_layers += 1
        if self.num_layers == self._stop_after:
            raise _LastLayerSeen


@dataclass(frozen=True)
class CaptureReport:
    """What a finished pass went through.

    Attributes:
        num_layers: attention layers seen.
        window: tokens in the smallest sliding window or chunk of any layer; None if all is global.
    """

    num_layers: int
    window: int | None


# Each thread and each asyncio task sees its own capture only.
_active: ContextVar[_Capture | None] = ContextVar("at2_active_capture", default=None)


def attention_call(
    module: Any,
    query: Tensor,
    key: Tensor,
    mask: Tensor | LocalMask | None,
    *,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **_: Any,
) -> AttentionCall:
    """What a layer hands to its attention function, with what is left out filled in."""
    return AttentionCall(
        query=query,
        key=key,
        mask=mask,
        scaling=query.shape[-1] ** -0.5 if scaling is None else scaling,
        softcap=softcap,
        sinks=s_aux,
        bias=position_bias,
        causal=getattr(module, "is_causal", True) if is_causal is None else is_causal,
    )


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | LocalMask | None,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function: report to the active capture, then compute as usual."""
    capture = _active.get()
    needs_rows = softcap is not None or s_aux is not None
    if capture is not None or needs_rows:
        call = attention_call(
            module,
            query,
            key,
            attention_mask,
            scaling=scaling,
            softcap=softcap,
            s_aux=s_aux,
            position_bias=position_bias,
            is_causal=is_causal,
        )
        if capture is not None:
            capture.receive(call)
        if needs_rows:
            return call.output(value), None
    if isinstance(attention_mask, LocalMask):
        parts = []
        for start, end in attention_mask.blocks():
            low = attention_mask.first_key(start)
            bias = None if position_bias is None else position_bias[..., start:end, low:end]
            part, _ = sdpa_attention_forward(
                module,
                query[:, :, start:end],
                key[:, :, low:end],
                value[:, :, low:end],
                attention_mask.rows(start, end),
                scaling=scaling,
                position_bias=bias,
                is_causal=False,
                **kwargs,
            )
            parts.append(part)
        return torch.cat(parts, dim=1), None
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module,
        query,
        key,
        value,
        attention_mask,
        scaling=scaling,
        position_bias=position_bias,
        is_causal=is_causal,
        **kwargs,
    )
    return output


def mask_for_pass(
    *,
    q_length: int,
    kv_length: int,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    **kwargs: Any,
) -> Tensor | LocalMask | None:
    """The mask function: None only for a square causal mask, which kernels build for nothing."""
    capture = _active.get()
    if capture is not None and local_size:  # some configs spell "no window" as 0
        capture.windows.add(local_size)
        if capture.local_from is not None and kv_length > capture.local_from * local_size:
            local = _local_mask(q_length, kv_length, local_size, **kwargs)
            if local is not None:
                return local
    mask: Tensor | None = sdpa_mask(
        q_length=q_length,
        kv_length=kv_length,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip and q_length == kv_length,
        **kwargs,
    )
    return mask


def _local_mask(
    q_length: int,
    kv_length: int,
    window: int,
    *,
    q_offset: int = 0,
    kv_offset: int = 0,
    attention_mask: Tensor | None = None,
    use_vmap: bool = False,
    **kwargs: Any,
) -> LocalMask | None:
    """The mask row by row; None where it is more than a window before each token."""
    padded = attention_mask is not None
    if q_length != kv_length or q_offset or kv_offset or padded or use_vmap:
        return None
    kwargs.pop("allow_is_bidirectional_skip", None)

    def build(start: int, end: int, low: int) -> Tensor:
        rows: Tensor = sdpa_mask(
            q_length=end - start,
            kv_length=end - low,
            q_offset=start,
            kv_offset=low,
            allow_is_causal_skip=False,
            **kwargs,
        )
        return rows

    mask = LocalMask(build, window, kv_length, torch.device(kwargs.get("device", "cpu")))
    return mask if mask.stays_within_window() else None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, mask_for_pass)


def input_device(model: Any) -> torch.device:
    """Where token ids have to be; models spread over devices have several."""
    embeddings = model.get_input_embeddings()
    hook = getattr(embeddings, "_hf_hook", None)
    for each in getattr(hook, "hooks", (hook,)):  # of accelerate: it knows where weights run
        device = getattr(each, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device(embeddings.weight.device)


def capture_pass(
    model: Any,
    input_ids: Tensor,
    on_layer: Callable[[int, AttentionCall], None],
    *,
    stop_after: int | None = None,
    layer_inputs: Sequence[Tensor] | None = None,
) -> CaptureReport:
    """One forward pass over one sequence, calling `on_layer` for each attention layer in turn.

    Args:
        model: a transformers decoder, which is not touched.
        input_ids: [tokens].
        on_layer: receives the number of the layer among those seen and the call, batch of 1.
        stop_after: end the pass inside this many-th layer: its output and whatever comes after,
            the language-model head included, are never computed.
        layer_inputs: hidden states [1, tokens, width] that the layers read in place of their own.
    """
    local_from = 1 if _leave_masks_alone.get(model) else None
    return _pass(model, input_ids, _Capture(on_layer, stop_after, local_from), layer_inputs)


_leave_masks_alone: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def learn_local_masks(model: Any) -> bool:
    """Find out whether a model with local attention hands its masks on as they are.

    If it does, later passes build them row by row: their memory grows with tokens × window instead
    of tokens².
    """
    alone = _leave_masks_alone.get(model)
    if alone is None:
        try:
            _pass(model, torch.zeros(2, dtype=torch.long), _Capture(lambda *_: None, None, 0))
            alone = True
        except Exception:  # whatever a model makes of a mask without contents
            alone = False
        _leave_masks_alone[model] = alone
    return alone


def _pass(
    model: Any,
    input_ids: Tensor,
    capture: _Capture,
    layer_inputs: Sequence[Tensor] | None = None,
) -> CaptureReport:
    """A forward pass under a capture."""
    token = _active.set(capture)
    try:
        # Not inference mode: what a model caches on the way must stay usable for gradients.
        with twin_for_pass(model, NAME) as twin, torch.no_grad():
            if layer_inputs is not None:
                _feed(twin, layer_inputs)
            twin(input_ids=input_ids[None].to(input_device(model)), use_cache=False)
    except _LastLayerSeen:
        pass
    finally:
        _active.reset(token)
    return CaptureReport(capture.num_layers, min(capture.windows, default=None))


def _feed(model: Any, layer_inputs: Sequence[Tensor]) -> None:
    """Let each layer of a twin read hidden states that are given."""
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]

    def replace(
        hidden: Tensor, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (hidden.to(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": hidden.to(kwargs["hidden_states"])}

    for layer, hidden in zip(layers, layer_inputs, strict=False):
        layer.register_forward_pre_hook(partial(replace, hidden), with_kwargs=True)
