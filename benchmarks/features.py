"""Features of many targets: two matrix products a layer, beside a loop over the targets.

`python -m benchmarks.features`: a random Llama of four layers with 32 heads. Every token of a
response is a target of its own and every token of the context a source, as in training: what is
kept is the sum over the sources of each of 32 ablations. Both ways run the same capture; what that
takes by itself, with every row of attention formed and dropped, is measured beside them. The loop
sums up the rows of one target after the other.
"""

import argparse
import statistics
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from at2.model.attention import attention_shape, source_features
from at2.model.capture import DEFAULT_ROW_BYTES, AttentionCall, capture_pass
from at2.model.tokens import MarkedTokens

RATIO_BAR = 5.0

_CONTEXT_TOKENS = 4096
_TARGETS = 256
_ABLATIONS = 32
_LAYERS = 4
_HEADS = 32


def _rows_only(model: LlamaForCausalLM, tokens: MarkedTokens) -> None:
    """Form the rows of the targets, and drop them."""
    first, last = tokens.target_range[0] - 1, tokens.target_range[1] - 1

    def on_layer(_: int, call: AttentionCall) -> None:
        for start, end in call.blocks(first, last, DEFAULT_ROW_BYTES):
            call.rows(start, end)

    capture_pass(model, tokens.ids[:last], on_layer, stop_after=attention_shape(model).num_layers)


def by_loop(model: LlamaForCausalLM, tokens: MarkedTokens, sums: Tensor) -> Tensor:
    """The features [targets, sums, layers × heads] of every token of the target.

    Args:
        model: the model whose attention is read.
        tokens: a target, and sources of one token each.
        sums: [sums, sources].
    """
    first, last = tokens.target_range[0] - 1, tokens.target_range[1] - 1
    shape = attention_shape(model)
    edges = torch.tensor(tokens.source_ranges).T  # [start or end, sources]
    features = torch.zeros(last - first, len(sums), shape.num_layers, shape.num_heads)

    def on_layer(layer: int, call: AttentionCall) -> None:
        for start, end in call.blocks(first, last, DEFAULT_ROW_BYTES):
            rows = call.rows(start, end)[0]  # [heads, targets, keys]
            for place in range(end - start):
                prefix = torch.nn.functional.pad(rows[:, place].double().cumsum(-1), (1, 0))
                by_source = (prefix[:, edges[1]] - prefix[:, edges[0]]).float()
                features[start - first + place, :, layer] = sums @ by_source.T

    capture_pass(model, tokens.ids[:last], on_layer, stop_after=shape.num_layers)
    return features.flatten(2)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=32 * _HEADS,
        intermediate_size=2048,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        max_position_embeddings=_CONTEXT_TOKENS + _TARGETS,
    )
    model = LlamaForCausalLM(config).eval()
    end = _CONTEXT_TOKENS + _TARGETS
    sources = [(position, position + 1) for position in range(1, _CONTEXT_TOKENS)]
    tokens = MarkedTokens(
        torch.randint(3, config.vocab_size, (end,)), (_CONTEXT_TOKENS, end), sources
    )
    targets = [(position, position + 1) for position in range(*tokens.target_range)]
    sums = (torch.rand(_ABLATIONS, len(sources)) < 0.5).float()
    found: dict[str, list[float]] = {"capture": [], "loop": [], "source_features": []}
    with torch.inference_mode():
        for _ in range(options.rounds):
            started = time.perf_counter()
            _rows_only(model, tokens)
            found["capture"].append(time.perf_counter() - started)
            started = time.perf_counter()
            looped = by_loop(model, tokens, sums)
            found["loop"].append(time.perf_counter() - started)
            started = time.perf_counter()
            features = source_features(model, tokens, targets, source_weights=sums)
            found["source_features"].append(time.perf_counter() - started)
    difference = (looped - features).abs().max().item()
    print(
        f"{_TARGETS} targets, {len(sources)} sources, {_LAYERS} layers × {_HEADS} heads: "
        f"largest difference {difference:.1e}"
    )
    for name, seconds in found.items():
        print(f"{name}: {statistics.median(seconds):.2f} s")
    above = [
        (loop - capture) / (products - capture)
        for capture, loop, products in zip(*found.values(), strict=True)
    ]
    print(
        f"above the capture: loop / source_features {statistics.median(above):.1f} "
        f"(bar {RATIO_BAR:g})"
    )


if __name__ == "__main__":
    main()
