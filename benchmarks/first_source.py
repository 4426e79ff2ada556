"""How often the first source is the sentence that holds the answer.

`python -m benchmarks.first_source [--squad FILE]`: every question about the passages of the tests
that the model answers right, and with a file in the layout of SQuAD (XQuAD's English part)
questions about its articles from the 33rd on, in contexts of one to five paragraphs. Responses are
the model's own, greedy. Asked are the span of the answer and the whole response.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.methods import method_named
from at2.model import default
from at2.utils import get_model_and_tokenizer
from benchmarks.questions import Asked, from_passages, from_squad

METHODS = (
    "at2",
    "contrastive_attention",
    "average_attention",
    "lexical_overlap",
    "position",
    "random",
)
HELD_OUT_ARTICLES = slice(32, 40)


@dataclass(frozen=True)
class Hit:
    """Whether the first source was right.

    Attributes:
        sources: how many there were.
        span, whole: by method, for the answer's span and for the whole response.
    """

    sources: int
    span: dict[str, bool]
    whole: dict[str, bool]


def judge(
    asked: Asked, model: Any, tokenizer: Any, estimator: LinearScoreEstimator, names: Sequence[str]
) -> Hit | None:
    """What each method puts first; None where the response is not right."""
    task = asked.task(model, tokenizer)
    span = asked.answer_range(task.target)
    support = asked.supporting(task)
    if span is None or not support or task.num_sources < 2:
        return None
    in_span, in_whole = {}, {}
    for name in names:
        attributor = method_named(name).build(task, estimator)
        in_span[name] = attributor.attribute(*span, top_k=1).sources[0].source.index in support
        in_whole[name] = attributor.attribute(top_k=1).sources[0].source.index in support
    return Hit(task.num_sources, in_span, in_whole)


def table(title: str, hits: Sequence[Hit], asked: int, names: Sequence[str]) -> list[str]:
    """Rows of shares, a method each."""
    rows = [f"{title}: {len(hits)} of {asked} answered right", "", "| method | span | whole |"]
    rows.append("|---|---|---|")
    for name in names:
        span = sum(hit.span[name] for hit in hits)
        whole = sum(hit.whole[name] for hit in hits)
        count = max(1, len(hits))
        rows.append(f"| {name} | {span / count:.3f} ({span}) | {whole / count:.3f} ({whole}) |")
    return [*rows, ""]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_source", description=__doc__)
    parser.add_argument("--model", default=default.NAME)
    parser.add_argument("--estimator", default=str(default.ESTIMATOR_PATH))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--squad", type=Path, help="a file in the layout of SQuAD")
    parser.add_argument("--count", type=int, default=120, help="questions of that file")
    given = parser.parse_args(arguments)
    model, tokenizer = get_model_and_tokenizer(given.model, device="cpu")
    estimator = load_estimator(given.estimator)
    names = given.methods.split(",")
    sets = {"Passages": from_passages()}
    if given.squad is not None:
        sets["Articles"] = from_squad(given.squad, HELD_OUT_ARTICLES, (1, 2, 3, 5), given.count)
    for title, questions in sets.items():
        found = [judge(one, model, tokenizer, estimator, names) for one in tqdm(questions)]
        hits = [hit for hit in found if hit is not None]
        print(*table(title, hits, len(questions), names), sep="\n", flush=True)


if __name__ == "__main__":
    main()
