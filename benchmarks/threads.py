"""What a second thread gains in one step of generation, by model and number of tokens.

`python -m benchmarks.threads`: passes without a cache, by turns. It is why a small step runs in one
thread (`service/engine/threads.py`).
"""

import statistics
import time
from typing import Any

import torch
from transformers.utils import logging

from at2.utils import get_model_and_tokenizer
from benchmarks.compute import random_llama

_TOKENS = (1, 8, 32, 128)
_PASSES = 15
_SIZES: dict[str, dict[str, Any]] = {
    "width 512, 12 layers": {"hidden_size": 512, "intermediate_size": 1536},
    "width 768, 12 layers": {"hidden_size": 768, "intermediate_size": 2304},
}
_COMMON: dict[str, Any] = {
    "vocab_size": 16_000,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}


def milliseconds(model: Any, tokens: int, threads: int) -> float:
    """One pass, the median of several."""
    torch.set_num_threads(threads)
    ids = torch.arange(5, 5 + tokens)[None]
    times = []
    with torch.inference_mode():
        for _ in range(_PASSES):
            started = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def main() -> None:
    """Measure and print."""
    logging.disable_progress_bar()
    threads = torch.get_num_threads()
    models = {"default": get_model_and_tokenizer(device="cpu")[0]}
    models |= {name: random_llama(_COMMON | sizes) for name, sizes in _SIZES.items()}
    print(f"One thread's time over that of {threads}, by tokens in the pass\n")
    print("| model | parameters | " + " | ".join(map(str, _TOKENS)) + " |")
    print("|---|---:|" + "---:|" * len(_TOKENS))
    for name, model in models.items():
        millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        milliseconds(model, max(_TOKENS), threads)  # warm
        gains = [
            milliseconds(model, tokens, 1) / milliseconds(model, tokens, threads)
            for tokens in _TOKENS
        ]
        print(
            f"| {name} | {millions:.0f} million | " + " | ".join(f"{g:.2f}" for g in gains) + " |"
        )
    torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
