"""A small task of many alphabets, and what ablations do to it, computed the slow and plain way."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from at2.tasks import SimpleContextAttributionTask
from tests.helpers.models import tiny_model
from tests.helpers.tokenizers import tiny_tokenizer

CONTEXT = "The quick brown fox jumps. 你好，世界。 Ada wrote the first program! 😀 was 42."
RESPONSE = "Ada wrote it, 你好. The fox was 42 😀 years old."


@cache
def tiny_pair(kind: str) -> tuple[Any, Any]:
    """A model with random weights for a kind of `tiny_tokenizer`, and that."""
    tokenizer = tiny_tokenizer(kind)
    return tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=4096), tokenizer


def small_llama(dtype: torch.dtype = torch.float32) -> Any:
    """Random weights, large enough for attention that is far from uniform."""
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer("byte_level")),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=6,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.ndim == 2 else 1)
    return model.to(dtype)


def small_gpt2() -> Any:
    """A family that computes all of its layers in float64 if asked to."""
    size = len(tiny_tokenizer("byte_level"))
    return tiny_model("gpt2", dtype=torch.float64, vocab_size=size)


def small_task(
    model: Any, source_type: str = "sentence", context: str = CONTEXT, response: str = RESPONSE
) -> SimpleContextAttributionTask:
    """The context as sources and the response, read by a model."""
    task = SimpleContextAttributionTask(
        context, "Who?", model, tiny_tokenizer("byte_level"), source_type=source_type
    )
    task.set_generation(response)
    return task


def token_log_probs(task: Any, keep: Sequence[bool], ablation: str = "mask") -> NDArray[Any]:
    """Log-probabilities [targets] of the target tokens, one plain pass, in float64."""
    ids = torch.tensor(task.token_ids)
    visible = torch.ones(len(ids), dtype=torch.bool)
    for kept, (start, end) in zip(keep, task.source_token_ranges, strict=True):
        visible[start:end] = bool(kept)
    first, last = task.target_token_range
    inputs: dict[str, Any] = {"attention_mask": visible[None].long()}
    if ablation == "remove":
        removed = int((~visible[:first]).sum())
        ids, first, last = ids[visible], first - removed, last - removed
        inputs = {}
    with torch.no_grad():
        logits = task.model(input_ids=ids[None], use_cache=False, **inputs).logits[0]
    log_probs = logits.double().log_softmax(-1)
    return np.array([log_probs[t - 1, ids[t]].item() for t in range(first, last)])


def span_log_prob(
    task: Any, span: tuple[int, int], keep: Sequence[bool], ablation: str = "mask"
) -> float:
    """Log-probability of a span given in tokens of the target."""
    return float(token_log_probs(task, keep, ablation)[span[0] : span[1]].sum())
