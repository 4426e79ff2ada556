"""`python -m benchmarks`: every benchmark, one after another."""

from benchmarks import (
    attribution,
    compute,
    decode_capture,
    features,
    generation,
    http_layer,
    long_context,
    scaling,
    sentences,
    serving,
)

if __name__ == "__main__":
    for module in (
        attribution,
        sentences,
        long_context,
        scaling,
        generation,
        features,
        compute,
        serving,
        decode_capture,
        http_layer,
    ):
        print(f"\n## {module.__name__.split('.')[-1]}\n")
        module.main()
