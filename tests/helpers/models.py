"""Tiny decoders with random weights, one per model family, always the same for the same name."""

import copy
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 128
WINDOW = 16

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Large enough for attention that is far from uniform, so that a wrong formula shows.
    "initializer_range": 0.25,
}
_MOE: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
}
_SLIDING_PATTERN = ["sliding_attention", "full_attention", "sliding_attention"]
_SLIDING: dict[str, Any] = {"sliding_window": WINDOW, "layer_types": _SLIDING_PATTERN}
_ONE_KEY_HEAD_EACH: dict[str, Any] = {"num_key_value_heads": 4}
_LATENT: dict[str, Any] = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_key_value_heads": 4,
    "head_dim": 4,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "apertus": {},
    "cohere": {"logit_scale": 0.5},
    "cohere2": _SLIDING,
    "deepseek_v3": _MOE | _LATENT,
    "ernie4_5": {},
    "exaone4": _SLIDING,
    "gemma": {},
    "gemma2": _SLIDING
    | {
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "query_pre_attn_scalar": 8,
    },
    "gemma3_text": _SLIDING | {"query_pre_attn_scalar": 8},
    "glm": {},
    "glm4": {},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "n_inner": 48},
    "gpt_neox": {},
    "gpt_oss": _MOE | _SLIDING,
    "granite": {"attention_multiplier": 0.3, "logits_scaling": 2.0},
    "granitemoe": _MOE,
    "llama": {},
    "llama4_text": _MOE
    | {
        "attention_chunk_size": WINDOW,
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "intermediate_size_mlp": 48,
        "interleave_moe_layer_step": 2,
    },
    "mistral": {"sliding_window": WINDOW},
    "mixtral": _MOE,
    "nemotron": {},
    "olmo2": {},
    "olmo3": _SLIDING,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "phi": _ONE_KEY_HEAD_EACH,
    "phi3": {},
    "qwen2": {"use_sliding_window": False},
    "qwen2_moe": _MOE | {"shared_expert_intermediate_size": 24},
    "qwen3": {},
    "qwen3_moe": _MOE,
    "qwen3_next": _MOE
    | {
        "shared_expert_intermediate_size": 24,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "layer_types": ["linear_attention", "full_attention", "full_attention"],
    },
    "seed_oss": {},
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "stablelm": {},
    "starcoder2": {},
    # These do not call transformers' attention interface.
    "bloom": {"n_head": 4, "n_layer": 3},
    "falcon": {"alibi": False, "new_decoder_architecture": True, "num_kv_heads": 2},
    "gptj": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "rotary_dim": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 512, "expansion_ratio": 2},
}

# Their recurrences do not know of the attention mask.
LEAKING: dict[str, dict[str, Any]] = {
    "recurrent_gemma": {
        "lru_width": 32,
        "attention_window_size": WINDOW,
        "block_types": ["recurrent", "recurrent", "attention"],
    },
    "rwkv": {"attention_hidden_size": 32},
}


def tiny_model(family: str, *, dtype: torch.dtype = torch.float32, **overrides: Any) -> Any:
    """A causal language model of a family, in evaluation mode.

    Args:
        family: a key of `FAMILIES` or `LEAKING`, which is transformers' `model_type`.
        dtype: of the weights, which are drawn in float32.
        **overrides: values of its config.
    """
    settings = copy.deepcopy(_COMMON | (FAMILIES | LEAKING)[family] | overrides)
    if family == "falcon":  # its head size follows from the others
        del settings["head_dim"]
    config = AutoConfig.for_model(family, **settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=None)
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # biases, norms and sinks start at constants that hide errors
                noise = torch.randn_like(parameter) * 0.2
                parameter.data.add_(noise)
            elif name.endswith("bias"):
                parameter.data.normal_(std=0.2)
    model.generation_config.pad_token_id = None
    return model.to(dtype).eval()


def random_ids(count: int, seed: int = 0) -> torch.Tensor:
    """Ids that no family treats as special, [count]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (count,), generator=generator)
