"""Attention weights from hidden states, as the published package computes them.

All of them at once, layers × heads × targets × tokens: nothing here works that way (see
`at2/model/attention.py`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from at2.errors import InputError
from at2.model.attention import attention_shape
from at2.model.capture import AttentionCall, capture_pass


def get_attentions_shape(model: Any) -> tuple[int, int]:
    """Attention layers, and heads in each."""
    shape = attention_shape(model)
    return shape.num_layers, shape.num_heads


def get_attention_weights(
    model: Any,
    hidden_states: Sequence[Tensor],
    attribution_start: int | None = None,
    attribution_end: int | None = None,
    model_type: str | None = None,
) -> Tensor:
    """Attention weights of tokens that predict other tokens.

    Args:
        model: a transformers decoder.
        hidden_states: [1, tokens, width] at the entrance of every layer, of all tokens but the
            last; further ones are not used.
        attribution_start, attribution_end: which tokens are targets, of all tokens.
        model_type: accepted for the published signature.

    Returns:
        [layers, heads, targets, tokens - 1] of the model's dtype.

    Raises:
        InputError: the targets are not among the tokens.
        UnsupportedModelError: the model's attention cannot be captured.
    """
    count = hidden_states[0].shape[1]
    start = 1 if attribution_start is None else attribution_start
    end = count + 1 if attribution_end is None else attribution_end
    if not 1 <= start <= end <= count + 1:
        raise InputError(f"target range ({start}, {end}) is not within tokens 1 to {count + 1}")
    layers: list[Tensor] = []

    def on_layer(_: int, call: AttentionCall) -> None:
        rows = call.rows(start - 1, end - 1)[0].to(hidden_states[0])
        layers.append(torch.nn.functional.pad(rows, (0, count - rows.shape[-1])))

    ids = torch.zeros(count, dtype=torch.long)
    capture_pass(model, ids, on_layer, layer_inputs=hidden_states)
    return torch.stack(layers)
