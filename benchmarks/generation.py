"""Responses for the training jobs: fixed batches beside continuous batching, that of the server and
that of transformers' `generate_batch`.

`python -m benchmarks.generation`: greedy responses to the same prompts, in one process, by turns.
The jobs generate in fixed batches because what shares a batch must follow from the shard alone;
here is what that costs, or saves. The larger model ends its responses at random, most of them
early: the setting in which fixed batches wait longest for their last response.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import logging

from at2.model.twin import same_weights
from at2.tasks.generation import end_ids, generate_responses
from at2.utils import get_model_and_tokenizer
from benchmarks.compute import random_llama
from benchmarks.questions import from_passages
from service.engine.batching import Batcher
from service.engine.sampling import Sampling

ROUNDS = 3
_BATCH_SIZES = (4, 16)
_MAX_NEW_TOKENS = 128
_CACHE_TOKENS = 8192
_BLOCK_TOKENS = 256
_LARGER: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "initializer_range": 0.1,
    "eos_token_id": list(range(0, 32_000, 50)),
}

Responses = list[list[int]]


def fixed(model: Any, prompts: Responses, batch_size: int) -> Responses:
    """As the jobs generate: prompts of similar length together."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        ids = [prompts[i] for i in batch]
        visible = [[1] * len(one) for one in ids]
        kwargs = {"max_new_tokens": _MAX_NEW_TOKENS, "do_sample": False}
        found |= zip(batch, generate_responses(model, ids, visible, kwargs), strict=True)
    return [found[i] for i in range(len(prompts))]


def offline(model: Any, prompts: Responses) -> Responses:
    """As `generate_batch` does: its loop runs while prompts are still added, so what shares a pass
    depends on time."""
    found = model.generate_batch(
        prompts,
        generation_config=GenerationConfig(
            max_new_tokens=_MAX_NEW_TOKENS, do_sample=False, eos_token_id=sorted(end_ids(model, {}))
        ),
        continuous_batching_config=ContinuousBatchingConfig(
            num_blocks=_CACHE_TOKENS // _BLOCK_TOKENS, max_batch_tokens=_BLOCK_TOKENS
        ),
        warmup=False,
    )
    by_prompt = {tuple(one.prompt_ids): list(one.generated_tokens) for one in found.values()}
    return [by_prompt[tuple(ids)] for ids in prompts]


async def continuous(batcher: Batcher, prompts: Responses) -> Responses:
    """As the server generates, everything asked for at once."""
    greedy = Sampling()
    streams = [
        batcher.submit(ids, _MAX_NEW_TOKENS, greedy, seed=0, streaming=False) for ids in prompts
    ]
    return [[token async for ids in stream for token in ids] for stream in streams]


def compare(name: str, model: Any, prompts: Responses) -> None:
    """Print a row for each way."""
    batcher = Batcher(same_weights(model), sorted(end_ids(model, {})), _CACHE_TOKENS)
    batcher.start()
    ways: dict[str, Callable[[], Responses]] = {
        f"batches of {size}": partial(fixed, model, prompts, size) for size in _BATCH_SIZES
    }
    ways["continuous"] = lambda: asyncio.run(continuous(batcher, prompts))
    ways["generate_batch"] = partial(offline, same_weights(model), prompts)
    reference = next(iter(ways.values()))()  # warm as well
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    same = dict.fromkeys(ways, len(prompts))
    for _ in range(ROUNDS):
        for way, responses in ways.items():
            started = time.perf_counter()
            found = responses()
            seconds[way].append(time.perf_counter() - started)
            equal = sum(one == other for one, other in zip(found, reference, strict=True))
            same[way] = min(same[way], equal)
    batcher.close()
    first = statistics.median(next(iter(seconds.values())))
    for way, times in seconds.items():
        middle = statistics.median(times)
        print(
            f"| {name} | {way} | {middle:.1f} s | {middle / first:.2f} "
            f"| {same[way]} of {len(prompts)} |",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    logging.disable_progress_bar()
    default, tokenizer = get_model_and_tokenizer(device="cpu")
    prompts = [asked.task(default, tokenizer).input_ids for asked in from_passages()[::8]]
    print(f"Up to {_MAX_NEW_TOKENS} new tokens, medians of {ROUNDS} rounds by turns\n")
    print("| model | | time | beside the first | the same responses |")
    print("|---|---|---:|---:|---:|")
    compare(f"default, {len(prompts)} prompts", default, prompts)
    compare("12 layers × 512, 24 prompts", random_llama(_LARGER), prompts[:24])


if __name__ == "__main__":
    main()
