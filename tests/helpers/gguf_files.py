"""Writes a Llama as a GGUF file, as llama.cpp's converter does."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMAL, _CONTROL = 1, 3  # types of tokens


def gguf_name(name: str) -> str:
    """What llama.cpp calls a parameter of transformers' Llama."""
    name = name.removesuffix(".weight")
    if name.startswith("model.layers."):
        number, part = name.removeprefix("model.layers.").split(".", 1)
        return f"blk.{number}.{_NAMES[part]}.weight"
    return f"{_NAMES[name]}.weight"


def write_gguf(
    path: Path,
    model: Any,
    tokenizer: Any,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    architecture: str = "llama",
    end: str | None = None,
    without: str = "",
) -> None:
    """Write a model and its byte-level tokenizer.

    Args:
        kind: of the matrices; vectors stay in float32.
        architecture: what the file says that it holds.
        end: the token that the file names as the end; by default the tokenizer's own.
        without: the beginning of the names of tensors that are left out; by default none is.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tokenizer, end or tokenizer.eos_token)
    _add_stretch(writer, model)
    for name, parameter in model.state_dict().items():
        if without and gguf_name(name).startswith(without):
            continue
        values = parameter.to(torch.float32).numpy()
        if name.endswith("q_proj.weight"):
            values = _paired(values, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            values = _paired(values, config.num_key_value_heads)
        stored = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else kind
        writer.add_tensor(gguf_name(name), gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_stretch(writer: gguf.GGUFWriter, model: Any) -> None:
    """Say how positions are stretched: by keys, or for Llama 3 by what divides each frequency."""
    rope = model.config.rope_parameters
    kind = rope["rope_type"]
    if kind == "llama3":
        count = model.config.head_dim // 2
        plain = rope["rope_theta"] ** -(np.arange(count) / count)
        factors = plain / model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    elif kind != "default":
        writer.add_rope_scaling_type(gguf.RopeScalingType(kind))
        writer.add_rope_scaling_factor(rope["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])


def rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """What eight bits (Q8_0) leave of a matrix: blocks of 32 with a scale in half precision."""
    blocks = values.reshape(-1, 32).astype(np.float64)
    scales = np.abs(blocks).max(1, keepdims=True) / 127
    steps = np.divide(blocks, scales, out=np.zeros_like(blocks), where=scales > 0)
    steps = np.trunc(np.abs(steps) + 0.5) * np.sign(steps)
    return (steps * scales.astype(np.float16)).astype(np.float32).reshape(values.shape)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, end: str) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    controls = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in controls else _NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.pad_token_id)
    writer.add_unk_token_id(tokenizer.pad_token_id)
    writer.add_eos_token_id(tokenizer.convert_tokens_to_ids(end))
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def _paired(values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of queries or keys in llama.cpp's order: the two halves of rotary pairs beside each
    other."""
    rows, columns = values.shape
    halves = values.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
