"""How a GGUF file stretches rotary positions, which transformers does not read.

Llama 3's factors of the frequencies are a tensor of the file, other kinds are named by its keys.
Without them a model answers short prompts as it should, and the worse the longer they are.
"""

from math import pi
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from at2.errors import UnsupportedModelError

_FREQUENCIES = "rope_freqs.weight"
_OF_LENGTHS = "rope_factors_long.weight"

# All of Llama 3 is stretched from this length, between these wavelengths; the file has the factors
# that follow, and not what they follow from.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_TOLERANCE = 1e-4

_ITS_OWN = ("gemma4_text",)
"""Families whose configuration in transformers says it whatever the file says."""


def stretch_positions(config: Any, reader: gguf.GGUFReader) -> None:
    """Put into a configuration what its GGUF file says of rotary positions.

    Raises:
        UnsupportedModelError: the file stretches them in a way that is not known here.
    """
    text = config.get_text_config()
    rope = getattr(text, "rope_parameters", None)
    if not isinstance(rope, dict) or text.model_type in _ITS_OWN:
        return
    by_kind_of_layer = any(isinstance(value, dict) for value in rope.values())
    of_layers = rope["full_attention"] if by_kind_of_layer else rope
    stretched = _stretch(reader, of_layers, text)
    if stretched:
        of_layers = {**of_layers, **stretched}
        text.rope_parameters = (
            {**rope, "full_attention": of_layers} if by_kind_of_layer else of_layers
        )


def _stretch(reader: gguf.GGUFReader, rope: dict[str, Any], text: Any) -> dict[str, Any]:
    """What a file adds to the parameters of rotary embeddings."""
    factors = _tensor(reader, _FREQUENCIES)
    if factors is not None and not np.allclose(factors, 1):
        return _of_llama3(factors.astype(np.float64), float(rope["rope_theta"]))
    if _tensor(reader, _OF_LENGTHS) is not None:
        raise UnsupportedModelError("the file has rotary frequencies for long and short prompts")
    if text.model_type == "phi3":
        head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        rotated = int(_key(reader, "dimension_count") or head)
        if rotated != head:
            raise UnsupportedModelError(f"the file rotates {rotated} of {head} numbers of a head")
    kind, factor = _key(reader, "scaling.type"), float(_key(reader, "scaling.factor") or 1)
    if kind in (None, "none") or factor == 1:
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    length = _key(reader, "scaling.original_context_length")
    if kind != "yarn" or length is None or _key(reader, "scaling.attn_factor") not in (None, 1):
        raise UnsupportedModelError(f"the file stretches its positions by {kind} × {factor:g}")
    yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": int(length)}
    for name in ("beta_fast", "beta_slow"):
        beta = _key(reader, f"scaling.yarn_{name}")
        if beta is not None:
            yarn[name] = float(beta)
    return yarn


def _of_llama3(factors: NDArray[np.float64], theta: float) -> dict[str, Any]:
    """The parameters that factors [frequencies] follow from, each what a frequency is divided by.

    Raises:
        UnsupportedModelError: they follow from others.
    """
    factor = float(round(factors.max(), 4))
    wavelengths = 2 * pi * theta ** (np.arange(len(factors)) / len(factors))
    low, high = _LLAMA3["low_freq_factor"], _LLAMA3["high_freq_factor"]
    turns = _LLAMA3["original_max_position_embeddings"] / wavelengths
    share = np.clip((turns - low) / (high - low), 0, 1)  # of the frequency that stays as it is
    if not np.allclose(factors, 1 / ((1 - share) / factor + share), rtol=_TOLERANCE):
        raise UnsupportedModelError("the file has factors of rotary frequencies of its own")
    return {"rope_type": "llama3", "factor": factor, **_LLAMA3}


def _tensor(reader: gguf.GGUFReader, name: str) -> NDArray[np.float32] | None:
    found = [tensor.data for tensor in reader.tensors if tensor.name == name]
    return np.asarray(found[0], dtype=np.float32).reshape(-1) if found else None


def _key(reader: gguf.GGUFReader, name: str) -> Any:
    """The value of a key of rotary embeddings; None if the file has none."""
    architecture = reader.get_field("general.architecture")
    field = architecture and reader.get_field(f"{architecture.contents()}.rope.{name}")
    return field.contents() if field else None
