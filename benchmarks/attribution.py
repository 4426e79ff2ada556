"""What attribution costs on the default model: the methods, and the published package.

`python -m benchmarks.attribution`: spans of a finished generation beside a bare prefill of the same
ids; every method beside it, too; then generation and attribution end to end, ours and the published
package's, each in a process of its own. The published package has to be in `.peers` (`make bench`
puts it there). FlashTrace is among the methods where `--flashtrace FOLDER` names a folder with it,
as for `benchmarks.quality`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from at2 import AT2Attributor, LinearScoreEstimator
from at2.estimator.linear import load_estimator
from at2.methods import AttributionMethod, method_named
from at2.model.default import ESTIMATOR_PATH
from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer
from benchmarks.quality import flashtrace_method
from tests.helpers.published import median_measured, published_attribution

FIRST_SPAN_BAR = 1.15
LATER_SPAN_BAR_MS = 5.0
_REPEATS = 15
_SLOW_REPEATS = 3
_QUERY = "Where does Priya Nair live?"
_METHODS = (
    "at2",
    "average_attention",
    "visibility_gradient",
    "gradient_norm",
    "input_x_gradient",
    "context_cite_32",
    "context_cite_64",
    "leave_one_out",
)


def context(sentences: int) -> str:
    """Facts about many people, the one that is asked for among them."""
    facts = [f"Mina Okafor {n} lives in Lisbon." for n in range(sentences - 1)]
    facts.insert(sentences // 2, "Priya Nair lives in Vienna.")
    return " ".join(facts)


def a_task(sentences: int, model: Any, tokenizer: Any) -> SimpleContextAttributionTask:
    """A question about such a context, without its response."""
    return SimpleContextAttributionTask(
        context(sentences), _QUERY, model, tokenizer, source_type="sentence"
    )


def median_ms(work: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median duration in milliseconds, after two unmeasured runs."""
    durations = []
    for repeat in range(repeats + 2):
        started = time.perf_counter()
        work()
        if repeat >= 2:
            durations.append((time.perf_counter() - started) * 1000)
    return statistics.median(durations)


def spans(model: Any, tokenizer: Any, estimator: LinearScoreEstimator) -> None:
    """The first span of a response and later ones beside a prefill."""
    task = a_task(100, model, tokenizer)
    task.set_generation("Priya Nair lives in Vienna.")
    ids = torch.tensor([task.token_ids])

    def prefill() -> None:
        with torch.no_grad():
            model(ids, use_cache=True, logits_to_keep=1)

    prepared = AT2Attributor(task, estimator)
    prepared.prepare_for_attribution()
    rows = {
        "prefill": (median_ms(prefill), ""),
        "first span": (
            median_ms(lambda: AT2Attributor(task, estimator).attribute(0, 17)),
            f"≤ {FIRST_SPAN_BAR} × prefill",
        ),
        "later span": (
            median_ms(lambda: prepared.attribute(0, 17)),
            f"≤ {LATER_SPAN_BAR_MS:g} ms",
        ),
    }
    print(f"A response to 100 sentences, {ids.shape[1]} tokens in all:\n")
    print("| | ms | beside prefill | bar |\n|---|---:|---:|---|")
    for name, (duration, bar) in rows.items():
        print(f"| {name} | {duration:.2f} | {duration / rows['prefill'][0]:.3f} | {bar} |")


def methods(
    model: Any, tokenizer: Any, estimator: LinearScoreEstimator, found: Sequence[AttributionMethod]
) -> None:
    """Every method's time for a whole response beside a prefill."""
    sentences = 40
    response = "Priya Nair lives in Vienna."

    def given() -> SimpleContextAttributionTask:
        task = a_task(sentences, model, tokenizer)
        task.set_generation(response)
        return task

    ids = torch.tensor([given().token_ids])

    def prefill() -> None:
        with torch.no_grad():
            model(ids, use_cache=True, logits_to_keep=1)

    base = median_ms(prefill)
    print(f"\nThe methods, {sentences} sources, {ids.shape[1]} tokens, from text to scores:\n")
    print("| method | ms | beside prefill |\n|---|---:|---:|")
    print(f"| (a prefill) | {base:.1f} | 1.0 |")
    for method in found:
        duration = median_ms(
            lambda method=method: method.build(given(), estimator).get_attribution_scores(),  # type: ignore[misc]
            _SLOW_REPEATS,
        )
        print(f"| {method.name} | {duration:.1f} | {duration / base:.1f} |", flush=True)


def measure(folder: Path) -> dict[str, float]:
    """Our generation and attribution in this process."""
    disable_progress_bar()
    job = json.loads((folder / "job.json").read_text())
    model, tokenizer = get_model_and_tokenizer(device="cpu")
    estimator = load_estimator(ESTIMATOR_PATH)

    def attribute() -> None:
        task = SimpleContextAttributionTask(
            job["context"], job["query"], model, tokenizer, source_type="sentence"
        )
        if job["generation"] is not None:
            task.set_generation(job["generation"])
        AT2Attributor(task, estimator).get_attribution_scores()

    return median_measured(attribute, job["repeats"])


def end_to_end() -> None:
    """Text to scores, with and without generation, ours and the published package's."""
    model, tokenizer = get_model_and_tokenizer(device="cpu")
    print("\nText to scores beside the published package, one process each:\n")
    print("| sentences | response | published | ours | **ratio** |\n|---:|---|---:|---:|---:|")
    for sentences in (10, 40):
        response = a_task(sentences, model, tokenizer).generation
        for name, generation in (("given", response), ("generated", None)):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                model.save_pretrained(folder / "model")
                tokenizer.save_pretrained(folder / "model")
                load_estimator(ESTIMATOR_PATH).save(folder / "score_estimator.pt")
                job = {
                    "name": "llama",
                    "context": context(sentences),
                    "query": _QUERY,
                    "generation": generation,
                    "repeats": _REPEATS,
                }
                (folder / "job.json").write_text(json.dumps(job))
                done = subprocess.run(
                    [sys.executable, "-m", "benchmarks.attribution", "--folder", place],
                    stdout=subprocess.PIPE,
                    text=True,
                    check=True,
                )
                ours = json.loads(done.stdout.splitlines()[-1])["seconds"]
                theirs = published_attribution(folder)["seconds"]
            print(
                f"| {sentences} | {name} | {1000 * theirs:.0f} ms | {1000 * ours:.0f} ms "
                f"| {theirs / ours:.1f} × |",
                flush=True,
            )


def main(flashtrace: Path | None = None) -> None:
    """Measure and print."""
    disable_progress_bar()
    model, tokenizer = get_model_and_tokenizer(device="cpu")
    estimator = load_estimator(ESTIMATOR_PATH)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    spans(model, tokenizer, estimator)
    found = [method_named(name) for name in _METHODS]
    if flashtrace is not None:
        found.append(flashtrace_method(flashtrace))
    methods(model, tokenizer, estimator, found)
    end_to_end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attribution", description=__doc__)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--flashtrace", type=Path, help="folder with the package")
    arguments = parser.parse_args()
    if arguments.folder:
        print(json.dumps(measure(arguments.folder)))
    else:
        main(arguments.flashtrace)
