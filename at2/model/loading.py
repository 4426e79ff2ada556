"""Loading a model with its tokenizer, ready for attribution."""

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from at2.errors import InputError, ModelError, UnsupportedModelError, reason_of
from at2.model import default
from at2.model.gguf import find_gguf, finish_loading, parsed_once
from at2.model.gguf_positions import stretch_positions
from at2.model.positions import set_context_length

Quantization = Literal["4bit", "8bit"]
"""Weights in four bits (NF4) or eight, by bitsandbytes."""


def default_device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, as models are published; float32 on a CPU, where it is exact."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def get_model_and_tokenizer(
    model_name: str = default.NAME,
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    is_multimodal: bool | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: str | dict[str, Any] | None = None,
    quantization: Quantization | None = None,
    gguf_file: str | None = None,
    context_length: int | None = None,
    **kwargs: Any,
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer.

    Args:
        model_name: a hub name, a folder, a GGUF file (its path, or `owner/repository/file.gguf` on
            the hub), or "SmolLM2-135M-Instruct" for the default model.
        dtype: of the weights, as a torch type, its name, or "auto" for the checkpoint's own; by
            default bfloat16 on a GPU, float32 on a CPU, float16 with eight bits.
        device: where to put the model; by default a GPU if there is one.
        attn_implementation: the kernel for ordinary passes ("sdpa", "eager", "flash_attention_2").
        is_multimodal: whether to take the language model of an image-and-text checkpoint; by
            default its configuration says.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run code that comes with the checkpoint. Off unless asked for.
        device_map: spread the model over devices, "auto" for what there is; instead of `device`.
            Needs accelerate.
        quantization: "4bit" or "8bit", on a GPU or a CPU. Needs bitsandbytes and accelerate.
        gguf_file: name of a GGUF file in the folder or hub repository `model_name`. The weights of
            such a file are dequantised to `dtype`.
        context_length: tokens that the model takes, where its config should not decide.
        **kwargs: passed on to `from_pretrained`, e.g. `quantization_config` or `max_memory`.

    Returns:
        The model, in evaluation mode, and the tokenizer, which pads on the left.

    Raises:
        ModelError: there is no such device, the checkpoint cannot be loaded, or a package is
            missing; one line with the reason.
        UnsupportedModelError: the tokenizer gives no character offsets.
        InputError: arguments that do not go together, an unknown dtype, or more tokens than the
            model has positions for.
    """
    # 1. What was asked for.
    if dtype is None:
        dtype = kwargs.pop("torch_dtype", None)  # as the published package calls it
    if device is not None and device_map is not None:
        raise InputError("give device or device_map, not both", param="device_map")
    device = default_device() if device is None else _usable(device)
    if quantization is not None:
        kwargs["quantization_config"] = _quantization_config(quantization, device)
        device_map = {"": device} if device_map is None else device_map
        if dtype is None and quantization == "8bit":
            dtype = torch.float16  # all that its kernels take
    if device_map is not None:
        _require("accelerate", "device_map")
        kwargs["device_map"] = device_map
    kwargs |= {"dtype": _dtype(dtype, device), "attn_implementation": attn_implementation}
    common = {"revision": revision, "trust_remote_code": trust_remote_code}

    # 2. Load it. Files of others fail in too many ways to list: tokenizers raises bare Exception.
    place = model_name if gguf_file is not None else _place(model_name)
    gguf = find_gguf(place, gguf_file)
    if gguf is not None:
        if quantization is not None:
            raise InputError(
                "a GGUF file is dequantised: give no quantization", param="quantization"
            )
        place, common["gguf_file"] = gguf.place, gguf.file
    reading: AbstractContextManager[list[Any]] = nullcontext([]) if gguf is None else parsed_once()
    try:
        with reading as parsed:
            config = AutoConfig.from_pretrained(place, **common)
            for reader in parsed:
                stretch_positions(config, reader)
            tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left", **common)
            if is_multimodal is None:
                is_multimodal = _is_multimodal(config)
            auto = AutoModelForImageTextToText if is_multimodal else AutoModelForCausalLM
            model, report = auto.from_pretrained(
                place, config=config, output_loading_info=True, **common, **kwargs
            )
        _check_complete(report["missing_keys"], in_parts=gguf is not None)
    except Exception as error:
        raise _cannot_load(model_name, error) from error
    if not tokenizer.is_fast:
        raise UnsupportedModelError(
            f"the tokenizer of {model_name!r} gives no character offsets (it is not a fast one)"
        )

    # 3. Make it ready.
    if gguf is not None:
        finish_loading(model, tokenizer)
    if is_multimodal:
        model = _language_model(model)
    if device_map is None:
        model.to(device)
    model.eval()
    model.name_or_path = model_name
    if context_length is not None:
        set_context_length(model, context_length)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model, tokenizer


def check_model_name(model_name: str) -> None:
    """Find out whether there is such a model, without its weights.

    Raises:
        ModelError: there is none, or its configuration cannot be read.
    """
    place = _place(model_name)
    if find_gguf(place, None) is not None:
        return
    try:
        AutoConfig.from_pretrained(place)
    except Exception as error:
        raise _cannot_load(model_name, error) from error


def _place(model_name: str) -> str:
    """Where a model is: the default one has a file."""
    return str(default.default_model_path()) if model_name == default.NAME else model_name


def _check_complete(missing: Collection[str], *, in_parts: bool) -> None:
    """Refuse a checkpoint without all weights: transformers makes up the others.

    Args:
        missing: names of those that are not there.
        in_parts: whether a part may have been taken for the whole.

    Raises:
        ModelError: some are missing.
    """
    if missing:
        merge = "; parts have to be merged (llama-gguf-split --merge)" if in_parts else ""
        raise ModelError(f"it lacks {len(missing)} weights, such as {min(missing)}{merge}")


def _cannot_load(model_name: str, error: Exception) -> ModelError:
    return ModelError(f"cannot load model {model_name!r}: {reason_of(error)}")


def _usable(device: str | torch.device) -> torch.device:
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # as torch has it
        reason = str(error).partition("\n")[0]
        raise ModelError(f"device {str(device)!r} cannot be used: {reason}") from error
    return torch.device(device)


def _dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype | str:
    if dtype is None:
        return default_dtype(device)
    if dtype == "auto" or isinstance(dtype, torch.dtype):
        return dtype
    resolved = getattr(torch, dtype, None)
    if not isinstance(resolved, torch.dtype) or not resolved.is_floating_point:
        raise InputError(
            f"unknown dtype {dtype!r}: not auto, float32, bfloat16 or float16", param="dtype"
        )
    return resolved


def _quantization_config(quantization: str, device: torch.device) -> Any:
    if quantization not in ("4bit", "8bit"):
        raise InputError(
            f"unknown quantization {quantization!r}: not one of 4bit, 8bit", param="quantization"
        )
    _require("bitsandbytes", "quantization")
    return BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=default_dtype(device),
    )


def _require(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise ModelError(f"{what} needs the package {package}: pip install {package}")


def _is_multimodal(config: Any) -> bool:
    """Whether a configuration is that of a language model with something for images before it."""
    known = type(config) in AutoModelForImageTextToText._model_mapping
    return known and config.get_text_config(decoder=True) is not config


def _language_model(model: Any) -> Any:
    """The language model of a multimodal one, with its head, sharing its weights.

    Where transformers has no class for it alone, the whole model, which reads plain text as well.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    try:
        with torch.device("meta"):  # no weights: they are put in place below
            language_model = AutoModelForCausalLM.from_config(decoder.config)
    except ValueError:
        return model
    if type(decoder) is not type(language_model.base_model) or head is None:
        return model
    setattr(language_model, language_model.base_model_prefix, decoder)
    language_model.set_output_embeddings(head)
    if any(tensor.is_meta for tensor in language_model.state_dict().values()):
        return model
    language_model.config = decoder.config
    language_model.config._commit_hash = getattr(model.config, "_commit_hash", None)
    language_model.generation_config = model.generation_config
    return language_model
