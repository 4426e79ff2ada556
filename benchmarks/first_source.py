"""How often the first source is the sentence that holds the answer.

`python -m benchmarks.first_source [--squad FILE]`: every question about the passages of the tests
that the model answers right, and with a file in the layout of SQuAD (XQuAD's English part)
questions about its articles from the 33rd on, each in contexts of one, two, three and five
paragraphs. Responses are the model's own, greedy. Asked are the span of the answer and the whole
response. Counted are all right answers, and those that rest on the sentence (`benchmarks.grounds`).
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tqdm.auto import tqdm

from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.evaluation.verdicts import Share
from at2.methods import Attributor, method_named
from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model import default
from at2.model.attention import attention_shape, weighed_scores
from at2.model.weighing import Weighings
from at2.tasks import DocumentsContextAttributionTask
from at2.utils import get_model_and_tokenizer
from benchmarks.grounds import Drops, Ground, measure_drops
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
PARAGRAPHS = (1, 2, 3, 5)
BATCH = 8
"""Responses that are written together."""


@dataclass(frozen=True)
class Answered:
    """A question and what came of it.

    Attributes:
        title: the set that it belongs to.
        query: the question.
        response: what the model wrote.
        right: whether that contains the value, and there are sources to choose from. What follows
            is empty where it is not.
        sources: how many there are.
        support: those that hold the answer.
        drops: what the answer loses without them, and without any source.
        span, whole: by method, the first source for the answer's span and the whole response.
    """

    title: str
    query: str
    response: str
    right: bool
    sources: int
    support: Sequence[int]
    drops: Drops
    span: Mapping[str, int]
    whole: Mapping[str, int]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Answered":
        """What `asdict` made."""
        return cls(**{**values, "drops": Drops(**values["drops"])})

    def hit(self, method: str, *, whole: bool) -> bool:
        """Whether a method's first source holds the answer."""
        return (self.whole if whole else self.span)[method] in self.support


def judge(
    title: str,
    asked: Asked,
    task: DocumentsContextAttributionTask,
    estimator: LinearScoreEstimator,
    names: Sequence[str],
) -> Answered:
    """What each method puts first, and what the answer rests on."""
    span, support = asked.answer_range(task.target), sorted(asked.supporting(task))
    right = span is not None and len(support) > 0 and task.num_sources > 1
    in_span, in_whole, drops = {}, {}, Drops(0.0, 0.0)
    if span is not None and right:
        drops = measure_drops(task, span, support)
        for name, attributor in attributors(task, estimator, names).items():
            in_span[name] = attributor.attribute(*span, top_k=1).sources[0].source.index
            in_whole[name] = attributor.attribute(top_k=1).sources[0].source.index
    return Answered(
        title,
        asked.query,
        task.target,
        right,
        task.num_sources,
        support,
        drops,
        in_span,
        in_whole,
    )


def attributors(
    task: DocumentsContextAttributionTask, estimator: LinearScoreEstimator, names: Sequence[str]
) -> dict[str, Attributor]:
    """The methods by name; those that weigh attention share one pass over the model."""
    built = {name: method_named(name).build(task, estimator) for name in names}
    weighing = {
        n: each for n, each in built.items() if isinstance(each, WeightedAttentionAttributor)
    }
    if weighing:
        shape = attention_shape(task.model)
        weighings = {name: each.weighing for name, each in weighing.items()}
        scores = weighed_scores(
            task.model,
            task.marked_tokens,
            Weighings(weighings, shape.num_layers, shape.num_heads),
        )
        for name, each in weighing.items():
            each.use_token_scores(scores.of(name, task.target_token_range))
    return built


def answer(
    title: str,
    questions: Sequence[Asked],
    model: Any,
    tokenizer: Any,
    estimator: LinearScoreEstimator,
    names: Sequence[str],
) -> Iterator[Answered]:
    """Ask questions, some of about the same length at a time."""
    ordered = sorted(questions, key=lambda asked: sum(len(d.text) for d in asked.documents))
    for start in range(0, len(ordered), BATCH):
        some = ordered[start : start + BATCH]
        tasks = [asked.task(model, tokenizer) for asked in some]
        DocumentsContextAttributionTask.batch_generate(tasks)
        for asked, task in zip(some, tasks, strict=True):
            yield judge(title, asked, task, estimator, names)


def table(title: str, answered: Sequence[Answered], names: Sequence[str]) -> list[str]:
    """What right answers rest on, and rows of shares, a method each: of all right ones, and of
    those that rest on the sentence."""
    right = [one for one in answered if one.right]
    grounds = Counter(one.drops.ground for one in right)
    counted = ", ".join(f"{grounds[ground]} {ground}" for ground in get_args(Ground))
    rows = [f"{title}: {len(right)} of {len(answered)} answered right; rest on: {counted}", ""]
    rows.append("| method | span | whole | resting: span | whole |")
    rows.append("|---|---:|---:|---:|---:|")
    resting = [one for one in right if one.drops.ground == "sentence"]
    for name in names:
        cells = [share(of, name, whole) for of in (right, resting) for whole in (False, True)]
        rows.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return [*rows, ""]


def share(answered: Sequence[Answered], method: str, whole: bool) -> str:
    """How often a method's first source is right, with a 95 % interval. Answers to one question in
    several contexts hang together: the interval is that of as many answers as there are questions.
    """
    if not answered:
        return ""
    hits = [one.hit(method, whole=whole) for one in answered]
    mean, questions = float(np.mean(hits)), len({one.query for one in answered})
    interval = Share.counted(round(mean * questions), questions)
    return f"{mean:.3f} [{interval.low:.2f}, {interval.high:.2f}] ({sum(hits)} of {len(hits)})"


def read(path: Path | None) -> list[Answered]:
    """What an earlier run found."""
    if path is None or not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Answered.from_dict(json.loads(line)) for line in lines]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_source", description=__doc__)
    parser.add_argument("--model", default=default.NAME)
    parser.add_argument("--estimator", default=str(default.ESTIMATOR_PATH))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--squad", type=Path, help="a file in the layout of SQuAD")
    parser.add_argument(
        "--count",
        type=int,
        nargs=len(PARAGRAPHS),
        default=[None] * len(PARAGRAPHS),
        help="questions in contexts of each length; else all",
    )
    parser.add_argument("--passages", type=int, help="questions about passages; else all")
    parser.add_argument("--keep", type=Path, help="a file of what was found, to go on after a stop")
    given = parser.parse_args(arguments)
    model, tokenizer = get_model_and_tokenizer(given.model, device="cpu")
    estimator = load_estimator(given.estimator)
    names = given.methods.split(",")
    sets = {"Passages": from_passages()[: given.passages]}
    if given.squad is not None:
        sets |= {
            f"Articles, paragraphs: {number}": from_squad(
                given.squad, HELD_OUT_ARTICLES, (number,), count
            )
            for number, count in zip(PARAGRAPHS, given.count, strict=True)
        }
    known = {(one.title, one.query): one for one in read(given.keep)}
    for title, questions in sets.items():
        new = [one for one in questions if (title, one.query) not in known]
        found = answer(title, new, model, tokenizer, estimator, names)
        for one in tqdm(found, desc=title, total=len(new)):
            known[title, one.query] = one
            if given.keep is not None:
                with given.keep.open("a", encoding="utf-8") as file:
                    print(json.dumps(asdict(one), ensure_ascii=False), file=file)
    of_sets = {t: [known[t, one.query] for one in questions] for t, questions in sets.items()}
    of_articles = [one for t, found in of_sets.items() if t != "Passages" for one in found]
    if of_articles:
        of_sets["Articles, all"] = of_articles
    for title, answered in of_sets.items():
        print(*table(title, answered, names), sep="\n", flush=True)


if __name__ == "__main__":
    main()
