"""Hops: whether the sentence behind a thought is found for a response that follows the thought.

`python -m benchmarks.hops`: of the responses in `tests/data/thoughts.jsonl` the path is known, from
a sentence of the documents over a thought to the response, written by hand. Asked is the value that
the response says, and which sentence of the documents comes first, with and without hops.

The reference is ablation: `chain` hides each sentence and takes the loss of thoughts and response
together, as a thought that came of a hidden sentence is not to be counted on; `alone` takes the
loss of the value by itself, with the thoughts as they are.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.methods import HopsAttributor, LeaveOneOutAttributor, method_named
from at2.metrics import spearman
from at2.model import default
from at2.utils import get_model_and_tokenizer
from tests.helpers.thoughts import Thought, read_thoughts

METHODS = ("at2", "contrastive_attention", "average_attention")
HOPS = (0, 1, 2, 4)


@dataclass(frozen=True)
class Found:
    """What was found for one response.

    Attributes:
        right: by method and hops, and by ablation, whether the sentence comes first.
        same: likewise, whether the first sentence is that of `chain`.
        correlation: likewise, Spearman's with the drops of `chain`.
        thought_share: by method, what the thoughts have of all positive scores without hops.
    """

    right: dict[str, bool]
    same: dict[str, bool]
    correlation: dict[str, float]
    thought_share: dict[str, float]


def trace(known: Thought, model: Any, tokenizer: Any, estimator: LinearScoreEstimator) -> Found:
    """Ask every method."""
    task, whole = known.task(model, tokenizer), known.whole(model, tokenizer)
    count = whole.num_sources
    scores, share = {}, {}
    for name in METHODS:
        attributor = HopsAttributor(method_named(name).build(task, estimator))
        for hops in HOPS:
            found = attributor.with_hops(hops).get_attribution_scores(known.value)
            scores[f"`{name}`, hops {hops}"] = found[:count]
            if not hops:
                positive = np.maximum(found, 0.0)
                share[name] = float(positive[count:].sum() / positive.sum())
    scores["ablation: `alone`"] = LeaveOneOutAttributor(task).get_attribution_scores(known.value)[
        :count
    ]
    scores["ablation: `chain`"] = chain = LeaveOneOutAttributor(whole).get_attribution_scores()
    origin = whole.sources.index(known.origin)
    return Found(
        {name: int(found.argmax()) == origin for name, found in scores.items()},
        {name: found.argmax() == chain.argmax() for name, found in scores.items()},
        {name: spearman(found, chain) or 0.0 for name, found in scores.items()},
        share,
    )


def table(found: Sequence[Found]) -> list[str]:
    """Rows of counts and means, a method each."""
    rows = ["| first sentence by | is the known one | is that of `chain` | rank correlation |"]
    rows.append("|---|---:|---:|---:|")
    for name in found[0].right:
        right = sum(one.right[name] for one in found)
        same = sum(one.same[name] for one in found)
        mean = float(np.mean([one.correlation[name] for one in found]))
        rows.append(f"| {name} | {right} of {len(found)} | {same} | {mean:.2f} |")
    rows.append("")
    for name in METHODS:
        share = float(np.mean([one.thought_share[name] for one in found]))
        rows.append(f"{name}: thoughts have {share:.2f} of the positive scores without hops")
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hops", description=__doc__)
    parser.add_argument("--model", default=default.NAME)
    parser.add_argument("--estimator", default=str(default.ESTIMATOR_PATH))
    given = parser.parse_args(arguments)
    model, tokenizer = get_model_and_tokenizer(given.model, device="cpu")
    estimator = load_estimator(given.estimator)
    found = [trace(one, model, tokenizer, estimator) for one in tqdm(read_thoughts())]
    print(*table(found), sep="\n", flush=True)


if __name__ == "__main__":
    main()
