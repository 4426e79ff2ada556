"""How tokens of a sequence are hidden from a model, and what a model makes of it.

Hidden tokens receive no attention, and all others keep their positions. A token that nothing
attends to can as well be dropped, which gives the same from a shorter sequence. Whether a model
allows for that is found by trying, once: positions may follow from the attention mask (OPT), layers
other than attention may mix tokens and know of the mask (Mamba) or not (RecurrentGemma).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from at2.errors import ModelError, UnsupportedModelError
from at2.model.attention import attention_shape, probe_ids
from at2.model.capture import NAME, input_device
from at2.model.twin import twin_for_pass

_PROBE_TOKENS = 32
_PROBE_HIDDEN = (8, 20)
# An error as a share of what hiding the tokens changes: rounding, against a wrong position or
# state, which changes about as much as the hiding does.
_PROBE_TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.05}
_PROBE_FLOAT_TOLERANCE = 1e-3


def masked(ids: Tensor, visible: Tensor, length: int) -> dict[str, Tensor]:
    """A sequence with attention to its hidden tokens masked, padded on the right."""
    padding = length - len(ids)
    return {
        "input_ids": torch.nn.functional.pad(ids, (0, padding)),
        "attention_mask": torch.nn.functional.pad(visible.long(), (0, padding)),
    }


def dropped(
    ids: Tensor, visible: Tensor, length: int, *, keep_positions: bool = True
) -> dict[str, Tensor]:
    """A sequence without its hidden tokens, padded on the right.

    The attention mask is all ones: without any, transformers takes gaps in the positions for packed
    sequences.
    """
    positions = visible.nonzero()[:, 0]
    padding = length - len(positions)
    inputs = {
        "input_ids": torch.nn.functional.pad(ids[positions], (0, padding)),
        "attention_mask": torch.ones(length, dtype=torch.long),
    }
    if keep_positions:
        inputs["position_ids"] = torch.nn.functional.pad(positions, (0, padding))
    return inputs


def attention_for_hiding(model: Any) -> str | None:
    """The attention implementation for passes with hidden tokens; None for the model's own.

    FlashAttention cuts masked tokens out before it counts a sliding window, and takes gaps in the
    positions for the borders of packed sequences.
    """
    config = model.config
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    return NAME if "flash" in str(getattr(config, "_attn_implementation", "")) else None


@dataclass(frozen=True)
class _Behaviour:
    """What a model makes of hidden tokens.

    Attributes:
        takes_positions: it can be told the positions of tokens.
        keeps_positions: without being told, tokens after hidden ones keep theirs.
        drops: dropping equals masking, within the attention window.
        leaks: tokens see what hidden ones say.
    """

    takes_positions: bool
    keeps_positions: bool
    drops: bool
    leaks: bool


_behaviours: WeakKeyDictionary[Any, _Behaviour] = WeakKeyDictionary()


def can_drop(model: Any, length: int) -> bool:
    """Whether dropping hidden tokens equals masking them, for sequences up to a length.

    It does not where a sliding window or chunk is shorter than the sequence (dropped tokens would
    let others slide into view).
    """
    try:
        window = attention_shape(model).window
    except UnsupportedModelError:
        return False
    if window is not None and length > window:
        return False
    return _behaviour(model).drops


def hides(model: Any) -> bool:
    """Whether masked tokens are hidden from the others, padding included."""
    return not _behaviour(model).leaks


def check_hides(model: Any) -> None:
    """Check that masked tokens are hidden from the others.

    Raises:
        UnsupportedModelError: they are not.
    """
    if not hides(model):
        raise UnsupportedModelError(
            f"{type(model).__name__} cannot hide tokens: its logits depend on masked ones, which "
            "reach them through layers that do not know of the attention mask"
        )


def needs_positions(model: Any) -> bool:
    """Whether `generate`, which counts visible tokens only, must be told the positions that tokens
    after hidden ones have in a masked pass."""
    behaviour = _behaviour(model)
    return behaviour.takes_positions and behaviour.keeps_positions


def _behaviour(model: Any) -> _Behaviour:
    if model not in _behaviours:
        _behaviours[model] = _probe(model)
    return _behaviours[model]


def same_as_hidden(model: Any, logits_of: Callable[[Tensor, tuple[int, int]], Tensor]) -> bool:
    """Whether tokens that are hidden in another way are hidden as by the attention mask.

    Args:
        model: a transformers causal language model.
        logits_of: gets ids [tokens] and the range of those to hide, and returns logits [1, tokens,
            vocabulary].
    """
    probe = _Probe(model)
    return probe.agrees(_after_hidden(model, logits_of(probe.ids, _PROBE_HIDDEN)))


class _Probe:
    """A short sequence, and a model's logits with some of it masked."""

    def __init__(self, model: Any) -> None:
        self.ids = probe_ids(model, _PROBE_TOKENS)
        self.visible = torch.ones(_PROBE_TOKENS, dtype=torch.bool)
        everything = masked(self.ids, self.visible, _PROBE_TOKENS)
        first, last = _PROBE_HIDDEN
        self.visible[first:last] = False
        self._reference = _logits(model, masked(self.ids, self.visible, _PROBE_TOKENS))
        effect = (_logits(model, everything) - self._reference).norm().item()
        self._most = _PROBE_TOLERANCE.get(model.dtype, _PROBE_FLOAT_TOLERANCE) * effect

    def agrees(self, logits: Tensor) -> bool:
        """Whether logits of the tokens after the hidden ones are those with these masked."""
        return bool((logits - self._reference).norm().item() <= self._most)


def _probe(model: Any) -> _Behaviour:
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    probe = _Probe(model)
    ids, visible = probe.ids, probe.visible
    first, last = _PROBE_HIDDEN
    others = ids.clone()
    others[first:last] = ids[first:last].flip(0).roll(1)

    def same(inputs: dict[str, Tensor]) -> bool:
        return probe.agrees(_logits(model, inputs))

    positions = {"position_ids": torch.arange(_PROBE_TOKENS)}
    return _Behaviour(
        takes_positions=takes_positions,
        keeps_positions=takes_positions and same(masked(ids, visible, _PROBE_TOKENS) | positions),
        drops=takes_positions and same(dropped(ids, visible, _PROBE_TOKENS - (last - first))),
        leaks=not same(masked(others, visible, _PROBE_TOKENS)),
    )


def _logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Logits of the tokens after the hidden ones."""
    device = input_device(model)
    inputs = {name: tensor[None].to(device) for name, tensor in inputs.items()}
    with twin_for_pass(model, attention_for_hiding(model)) as twin, torch.no_grad():
        output: Tensor = twin(**inputs, use_cache=False).logits
    return _after_hidden(model, output)


def _after_hidden(model: Any, logits: Tensor) -> Tensor:
    logits = logits[0, -(_PROBE_TOKENS - _PROBE_HIDDEN[1]) :].float()
    if not logits.isfinite().all():
        raise ModelError(f"{type(model).__name__} returns logits that are not finite")
    return logits
