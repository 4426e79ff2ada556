"""How much of each source a model sees, as a number, and the slope of a response's
log-probability in it.

Hiding a source takes its tokens from the attention of all others (`at2.model.ablation`). Here every
source has a visibility v between hidden, 0, and in full view, 1: all tokens but the source's own
see it with `log v` added to their attention's logits, so that it receives v times the weight,
before weights are made to sum to one. One pass forward and one back tell for all sources at once
what seeing a little more of each does.

Knows models, token ids and ranges; nothing of text or tasks.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from at2.errors import InputError, UnsupportedModelError
from at2.model.attention import attention_shape
from at2.model.capture import attention_call, input_device, mask_for_pass
from at2.model.gradients import gradient_of_targets, over_targets
from at2.model.hiding import check_hides, same_as_hidden
from at2.model.tokens import MarkedTokens
from at2.model.twin import twin_for_pass
from at2.ranges import TokenRange

LEAST_VISIBILITY = 1e-30
"""Weights of a source that is seen less come to zero in float32, and have no slope."""

NAME = "at2_visibility"
"""The name under which transformers knows attention with visibilities."""

_VISIBILITIES = "_at2_visibilities"
"""Where a twin's modules keep what is added to their logits: layers that are computed again on the
way back may run in a thread of their own, without the caller's context."""


def visibility_gradients(model: Any, tokens: MarkedTokens, visibility: float) -> Tensor:
    """The slope of `Σ_t log p(t | before t)` over the targets in the visibility of each source.

    Memory: as for `embedding_gradients`, and a block of rows of one layer's attention weights.

    Args:
        model: a transformers decoder in evaluation mode. It is left as it was.
        tokens: the sequence, its sources, and the target that is scored. A token of two sources
            belongs to the later one, as in ablations.
        visibility: of every source, from `LEAST_VISIBILITY` to 1.

    Returns:
        [sources], nats for a whole source, in float32 on the CPU (float64 from a float64 model).

    Raises:
        InputError: the target is empty, or the visibility is out of range.
        UnsupportedModelError: sources cannot be hidden from this model by their attention's logits.
    """
    check_visibility(visibility)
    _check(model)
    dtype = torch.promote_types(model.dtype, torch.float32)
    total = torch.zeros(len(tokens.source_ranges), dtype=dtype)
    one_pass = partial(_pass, tokens, math.log(visibility))
    for gradient in over_targets(model, tokens, one_pass, attention=NAME):
        total += gradient.to(total)
    return total / visibility


def check_visibility(visibility: float) -> None:
    """Check that a visibility has a slope.

    Raises:
        InputError: it is below `LEAST_VISIBILITY`, or above 1.
    """
    if not LEAST_VISIBILITY <= visibility <= 1:
        raise InputError(
            f"visibility is {visibility!r}, not from {LEAST_VISIBILITY} to 1", param="visibility"
        )


def _pass(
    tokens: MarkedTokens, log_visibility: float, model: Any, ids: Tensor, start: int
) -> Tensor:
    """The gradient [sources] in the logarithm of the visibilities, for targets from `start` on."""
    dtype = torch.promote_types(model.dtype, torch.float32)
    leaf = torch.full((len(tokens.source_ranges),), log_visibility, dtype=dtype, device=ids.device)
    leaf.requires_grad_()
    _put(model, _Visibilities.of(leaf, tokens, len(ids) - 1))
    return gradient_of_targets(model, ids, start, [leaf], "attention")


@dataclass(frozen=True)
class _Visibilities:
    """What is added to the attention's logits, made row by row.

    Attributes:
        source_of: [tokens], the source that each belongs to; -1 for none.
        of_token: [tokens], the logarithm of its source's visibility; 0 for none.
    """

    source_of: Tensor
    of_token: Tensor

    @classmethod
    def of(cls, log_visibilities: Tensor, tokens: MarkedTokens, length: int) -> "_Visibilities":
        """For the first tokens of a sequence, from the logarithms [sources]."""
        source_of = torch.full((length,), -1)
        for source, (start, end) in enumerate(tokens.source_ranges):
            source_of[start:end] = source
        source_of = source_of.to(log_visibilities.device)
        # -1 is the last place.
        return cls(source_of, torch.nn.functional.pad(log_visibilities, (0, 1))[source_of])

    def to(self, device: torch.device) -> "_Visibilities":
        """The same on another device."""
        return _Visibilities(self.source_of.to(device), self.of_token.to(device))

    def rows(self, tokens: TokenRange, keys: TokenRange) -> Tensor:
        """What is added to the logits [tokens, keys]: nothing where both are of one source."""
        of_keys = slice(*keys)
        own = self.source_of[slice(*tokens), None] == self.source_of[of_keys]
        return torch.where(own, 0, self.of_token[of_keys])


def _put(model: Any, visibilities: _Visibilities) -> None:
    for module in model.modules():
        module.__dict__[_VISIBILITIES] = visibilities


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function: as usual, with what visibilities add to the logits added last."""
    call = attention_call(module, query, key, attention_mask, **kwargs)
    visibilities = module.__dict__[_VISIBILITIES].to(query.device)
    return replace(call, row_bias=visibilities.rows).output(value), None


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, mask_for_pass)

_same: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _check(model: Any) -> None:
    """Check, once per model, that no visibility at all is the same as hiding.

    Raises:
        UnsupportedModelError: it is not: positions follow the attention mask (OPT), something else
            than attention mixes tokens, or transformers' interface does not reach the attention.
    """
    same = _same.get(model)
    if same is None:
        attention_shape(model)
        check_hides(model)
        same = _same[model] = same_as_hidden(model, partial(_logits_hidden, model))
    if not same:
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot hide tokens by the logits of its attention"
        )


def _logits_hidden(model: Any, ids: Tensor, hidden: tuple[int, int]) -> Tensor:
    """Logits [1, tokens, vocabulary] of a pass in which some tokens have no visibility."""
    tokens = MarkedTokens(ids, (len(ids), len(ids)), [hidden])
    lowest = torch.tensor([torch.finfo(torch.float32).min / 2])
    with twin_for_pass(model, NAME) as twin, torch.no_grad():
        _put(twin, _Visibilities.of(lowest, tokens, len(ids)))
        logits: Tensor = twin(input_ids=ids[None].to(input_device(model)), use_cache=False).logits
    return logits
