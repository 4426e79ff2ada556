"""Capture, generation, attribution and ablation on models of real size with random weights.

`python -m benchmarks.gpu` on a machine with one GPU; no network, no checkpoint. `--device cpu
--shape tiny` runs the same code anywhere, in seconds. Prints a table for `docs/gpu.md`.
"""

import argparse
import asyncio
import gc
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from at2.model.ablation import ablated_logit_probs, sample_masks
from at2.model.attention import attention_shape, check_capture, probe_ids, token_scores
from at2.model.tokens import MarkedTokens
from at2.model.twin import same_weights
from at2.model.weighing import Weighing
from service.engine.batching import Batcher
from service.engine.sampling import Sampling

PHI_4_MINI: dict[str, Any] = {
    "model_type": "phi3",
    "vocab_size": 200_064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 32,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "max_position_embeddings": 16_384,
    "partial_rotary_factor": 0.75,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
LLAMA_3_1_8B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 16_384,
}
TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16_384,
}
SHAPES = {"phi-4-mini": PHI_4_MINI, "llama-3.1-8b": LLAMA_3_1_8B, "tiny": TINY}

_REPEATS = 5
_SOURCE_TOKENS = 32
_PUBLISHED_BATCH = 4  # rows that the published package ablates at once, by default
_CONCURRENCY = 8
_GB = 1e9


@dataclass(frozen=True)
class Sizes:
    """Tokens of the context and of the response, and ablations."""

    context: int
    response: int
    masks: int


def synchronize(device: torch.device) -> None:
    """Wait for what was started on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device, repeats: int = _REPEATS) -> float:
    """The median duration, after an unmeasured run."""
    work()
    durations = []
    for _ in range(repeats):
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        durations.append(time.perf_counter() - started)
    return statistics.median(durations)


def peak_above(work: Callable[[], object], device: torch.device) -> float | None:
    """Gigabytes that work takes above what is there before it; None without a GPU."""
    if device.type != "cuda":
        work()
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / _GB


def build(shape: dict[str, Any], dtype: torch.dtype, device: torch.device) -> Any:
    """A model of a shape with random weights, the same for the same device."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(**shape)
    with device:
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def published_way(
    model: Any, ids: Tensor, first: int, sources: Sequence[tuple[int, int]], masks: Any
) -> None:
    """What the published package does for ablations: whole sequences under attention masks, a few
    at a time, logits of all tokens."""
    device = model.device
    rows = torch.ones(len(masks), len(ids), dtype=torch.long)
    for row, mask in zip(rows, masks, strict=True):
        for (start, end), keep in zip(sources, mask, strict=True):
            row[start:end] = int(keep)
    for chunk in torch.split(rows, _PUBLISHED_BATCH):
        with torch.no_grad():
            logits = model(
                input_ids=ids.expand(len(chunk), -1).to(device),
                attention_mask=chunk.to(device),
                use_cache=False,
            ).logits
        logits[:, first - 1 : -1].float().log_softmax(-1).sum().item()


async def _generate(
    batcher: Batcher, prompt: Sequence[int], tokens: int, count: int
) -> tuple[float, float]:
    """Seconds to the first token of the first response, and tokens per second of all."""
    started = time.perf_counter()
    first_after = 0.0

    async def one() -> int:
        nonlocal first_after
        made = 0
        async for new in batcher.submit(prompt, tokens, Sampling(), 0, streaming=True):
            first_after = first_after or time.perf_counter() - started
            made += len(new)
        return made

    made = await asyncio.gather(*(one() for _ in range(count)))
    return first_after, sum(made) / (time.perf_counter() - started)


def generation(model: Any, prompt: Sequence[int], tokens: int) -> dict[str, float]:
    """Time to the first token and tokens per second, one at a time and several at once."""
    capacity = (_CONCURRENCY + 1) * (len(prompt) + tokens)
    batcher = Batcher(same_weights(model), [], capacity)
    batcher.start()
    try:
        asyncio.run(_generate(batcher, prompt, 4, 1))
        first, alone = asyncio.run(_generate(batcher, prompt, tokens, 1))
        _, together = asyncio.run(_generate(batcher, prompt, tokens, _CONCURRENCY))
    finally:
        batcher.close()
    return {"first": first, "alone": alone, "together": together}


def rows_of(model: Any, sizes: Sizes) -> list[tuple[str, str]]:
    """Everything that is measured of one model, as cells."""
    device = model.device
    shape = attention_shape(model)
    total = sizes.context + sizes.response
    ids = probe_ids(model, total)
    weighing = Weighing(torch.randn(shape.num_layers, shape.num_heads))
    sources = [(start, start + _SOURCE_TOKENS) for start in range(0, sizes.context, _SOURCE_TOKENS)]
    sources = [(start, end) for start, end in sources[1:] if end < sizes.context]
    tokens = MarkedTokens(ids, (sizes.context, total), source_ranges=sources)
    masks = sample_masks(sizes.masks, len(sources), 0.5, seed=0)

    def prefill() -> None:
        with torch.no_grad():
            model(ids[None].to(device), use_cache=True, logits_to_keep=1)

    def attribute() -> None:
        token_scores(model, tokens, weighing).cpu()

    def ablate() -> None:
        ablated_logit_probs(model, tokens, masks)

    def ablate_as_published() -> None:
        published_way(model, ids, sizes.context, sources, masks)

    error = check_capture(model)
    base, scored = seconds(prefill, device), seconds(attribute, device)
    ours, theirs = seconds(ablate, device, 1), seconds(ablate_as_published, device, 1)
    memory = {
        "prefill": peak_above(prefill, device),
        "attribution": peak_above(attribute, device),
        "ablations": peak_above(ablate, device),
        "ablations as published": peak_above(ablate_as_published, device),
    }
    made = generation(model, ids[: sizes.context].tolist(), min(sizes.response, 128))
    return [
        ("capture against eager, error", f"{error:.1e}"),
        ("prefill", f"{base * 1000:.0f} ms"),
        ("attribution of the response", f"{scored * 1000:.0f} ms, {scored / base:.2f} × prefill"),
        (
            f"{sizes.masks} ablations of {len(sources)} sources",
            f"{ours:.2f} s; as published {theirs:.2f} s, {theirs / ours:.1f} ×",
        ),
        *((f"memory above the model, {k}", f"{v:.2f} GB") for k, v in memory.items() if v),
        ("time to the first token", f"{made['first'] * 1000:.0f} ms"),
        ("tokens per second, one at a time", f"{made['alone']:.0f}"),
        (
            f"tokens per second, {_CONCURRENCY} at once",
            f"{made['together']:.0f}, {made['together'] / made['alone']:.1f} ×",
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument(
        "--shape", choices=SHAPES, nargs="+", default=["phi-4-mini", "llama-3.1-8b"]
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float32"), nargs="+", default=["bfloat16", "float32"]
    )
    parser.add_argument("--context", type=int, default=4096, help="tokens")
    parser.add_argument("--response", type=int, default=256, help="tokens")
    parser.add_argument("--masks", type=int, default=32, help="ablations")
    given = parser.parse_args(arguments)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {given.device}: there is no such GPU; --device cpu --shape tiny")
    sizes = Sizes(given.context, given.response, given.masks)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{name}, torch {torch.__version__}, transformers {transformers.__version__}; "
        f"{sizes.context} tokens of context, {sizes.response} of response, random weights"
    )
    for shape in given.shape:
        for dtype in given.dtype:
            model = build(SHAPES[shape], getattr(torch, dtype), device)
            parameters = sum(p.numel() for p in model.parameters()) / _GB
            print(f"\n| {shape}, {parameters:.2f} billion parameters, {dtype} | |\n|---|---|")
            for label, cell in rows_of(model, sizes):
                print(f"| {label} | {cell} |", flush=True)
            del model
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
