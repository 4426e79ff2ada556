"""From a checkpoint to the folder that ships: safetensors in bfloat16, config, tokenizer."""

from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer_jobs.bundled.network import Network


def to_llama(network: Network) -> LlamaForCausalLM:
    """The same weights as a `LlamaForCausalLM`, in float32."""
    model = LlamaForCausalLM(network.config)
    missing, unexpected = model.load_state_dict(network.state_dict(), strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"the network is no Llama: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    config = network.config
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model.eval()


def export(network: Network, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model and its tokenizer to `folder`, weights rounded to bfloat16."""
    to_llama(network).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
