"""Loading a model with its tokenizer, ready for attribution."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from at2 import bundled
from at2.errors import ModelError, UnsupportedModelError
from at2.sentences import split_text

__all__ = ["default_device", "default_dtype", "get_model_and_tokenizer", "split_text"]


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, as models are published; float32 on a CPU, where it is exact."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def get_model_and_tokenizer(
    model_name: str = bundled.NAME,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    is_multimodal: bool = False,
    revision: str | None = None,
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Args:
        model_name: a hub name, a folder, or "bundled" for the model in this package.
        dtype: of the weights; by default bfloat16 on a GPU, float32 on a CPU.
        device: where to put the model; by default a GPU if there is one.
        attn_implementation: the kernel for ordinary passes ("sdpa", "eager", …).
        is_multimodal: load the language model of an image-and-text checkpoint.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the checkpoint. Off unless asked for.
        **kwargs: passed on to `from_pretrained`, e.g. `quantization_config` or `device_map`.

    Raises:
        ModelError: the checkpoint cannot be loaded; one line with the reason.
        UnsupportedModelError: the tokenizer gives no character offsets.
    """
    device = default_device() if device is None else torch.device(device)
    dtype = default_dtype(device) if dtype is None else dtype
    place = str(bundled.PATH) if model_name == bundled.NAME else model_name
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    auto = AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", **common)
        model = auto.from_pretrained(
            place, dtype=dtype, attn_implementation=attn_implementation, **common, **kwargs
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"cannot load model {model_name!r}: {reason}") from error
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"the tokenizer of {model_name!r} gives no character offsets (it is not a fast one)"
        )
    if is_multimodal:
        generation_config = model.generation_config
        model = model.language_model
        model.generation_config = generation_config
    if "device_map" not in kwargs:
        model.to(device)
    model.eval()
    model.name_or_path = model_name
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer
