"""Memory and time to attribute a long context, above what the loaded model takes.

`python -m benchmarks.long_context`: 32,768 tokens, the last 256 of them the response, on small
models with full attention, with sliding windows, and with both. What everything at once would take,
layers × heads × targets × tokens, is printed beside it. Each model runs in a process of its own.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOKENS = 32_768
TARGETS = 256
BUDGET_MIB = 1024
"""What attribution may take above the model: rows of one layer, one layer's activations, the
result."""

_SIZES: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 2 * TOKENS,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4096},
    "gemma3_text": {"sliding_window": 1024},
}


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def measure(family: str, tokens: int) -> dict[str, float]:
    """Attribute once in this process; memory in MiB, time in seconds."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from at2.model.attention import attention_shape, token_scores
    from at2.model.tokens import MarkedTokens
    from at2.model.weighing import Weighing

    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **_SIZES, **_FAMILIES[family])
    ).eval()
    shape = attention_shape(model)
    weighing = Weighing(torch.full((shape.num_layers, shape.num_heads), 1 / shape.num_layers))
    ids = torch.arange(tokens) % _SIZES["vocab_size"]
    token_scores(model, MarkedTokens(ids[:64], (32, 64)), weighing)  # warm: libraries, thread pools
    before = _status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.perf_counter()
    token_scores(model, MarkedTokens(ids, (tokens - TARGETS, tokens)), weighing)
    return {
        "seconds": time.perf_counter() - started,
        "above": _status_mib("VmHWM") - before,
        "everything": shape.num_layers * shape.num_heads * TARGETS * tokens * 4 / 2**20,
    }


def main() -> None:
    """Measure every family and print."""
    print(f"{TOKENS} tokens, {TARGETS} targets; budget {BUDGET_MIB} MiB above the loaded model\n")
    print("| model | peak above | everything at once | time |")
    print("|---|---:|---:|---:|")
    for family in _FAMILIES:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.long_context", "--family", family],
            capture_output=True,
            text=True,
            check=True,
        )
        row = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {family} | {row['above']:.0f} MiB{' (over)' if row['above'] > BUDGET_MIB else ''} "
            f"| {row['everything']:.0f} MiB | {row['seconds']:.1f} s |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", choices=_FAMILIES)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    arguments = parser.parse_args()
    if arguments.family:
        print(json.dumps(measure(arguments.family, arguments.tokens)))
    else:
        main()
