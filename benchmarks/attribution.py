"""Attribution of a finished generation against a bare prefill of the same ids.

`python -m benchmarks.attribution`: the first span costs one scoring pass, later spans a slice.
"""

import statistics
import time
from collections.abc import Callable

import torch

from at2 import AT2Attributor
from at2.bundled import ESTIMATOR_PATH
from at2.estimators import load_estimator
from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer

_REPEATS = 15
_SENTENCES = 100


def median_ms(work: Callable[[], object]) -> float:
    """Median duration in milliseconds, after two unmeasured runs."""
    durations = []
    for repeat in range(_REPEATS + 2):
        started = time.perf_counter()
        work()
        if repeat >= 2:
            durations.append((time.perf_counter() - started) * 1000)
    return statistics.median(durations)


def main() -> None:
    """Measure and print."""
    model, tokenizer = get_model_and_tokenizer()
    estimator = load_estimator(ESTIMATOR_PATH)
    task = SimpleContextAttributionTask(
        context=" ".join(f"Charlotte Bennett lives in Lisbon {i}." for i in range(_SENTENCES)),
        query="Where does Charlotte Bennett live?",
        model=model,
        tokenizer=tokenizer,
        source_type="sentence",
    )
    task.set_generation("Charlotte Bennett lives in Lisbon.")
    ids = torch.tensor([task.token_ids])

    def prefill() -> None:
        with torch.no_grad():
            model(ids, use_cache=True, logits_to_keep=1)

    def first_span() -> None:
        AT2Attributor(task, estimator).attribute(0, 17)

    prepared = AT2Attributor(task, estimator)
    prepared.prepare_for_attribution()
    rows = {
        "prefill": median_ms(prefill),
        "first span": median_ms(first_span),
        "later span": median_ms(lambda: prepared.attribute(0, 17)),
    }
    print(f"{ids.shape[1]} tokens, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, duration in rows.items():
        print(f"{name:12} {duration:8.2f} ms  {duration / rows['prefill']:6.2f} × prefill")


if __name__ == "__main__":
    main()
