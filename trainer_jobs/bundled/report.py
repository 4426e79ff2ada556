"""What the shipped model and estimator can do, measured on names that training never saw.

Answers come from greedy decoding by the library's own code, as a user would get them.
"""

from dataclasses import dataclass
from typing import Any

from tqdm.auto import tqdm

from at2 import AT2Attributor, AverageAttentionAttributor, LinearScoreEstimator
from at2.methods import Attributor
from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.questions import Asked, ask, task_of

_SEED = 1_000_033
"""Apart from every seed that training uses."""
_BATCH = 16
SIZES = (3, 6, 8, 12, 16, 20)
ATTRIBUTED = ((4, 16), (24, 40))
"""Sentences of the contexts that are attributed, from and to: those the model is made for, and
longer ones, where it errs more often and a bad estimator shows."""


@dataclass(frozen=True)
class Cell:
    """One kind of question asked of contexts of one size."""

    label: str
    kinds: frozenset[str]
    names: NameSource
    held_out_phrasings: bool = False


CELLS = (
    Cell("single fact, unseen names", frozenset({"single"}), NameSource(held_out=True)),
    Cell(
        "single fact, real-world names",
        frozenset({"single"}),
        NameSource(held_out=True, style="real"),
    ),
    Cell(
        "single fact, unseen names and phrasings",
        frozenset({"single"}),
        NameSource(held_out=True),
        held_out_phrasings=True,
    ),
    Cell('"Tell me about …", whole answer', frozenset({"about"}), NameSource(held_out=True)),
    Cell("not in the text", frozenset({"absent"}), NameSource(held_out=True)),
)


def answers(model: Any, tokenizer: Any, asked: list[Asked]) -> list[str]:
    """Greedy answers, in batches."""
    texts: list[str] = []
    for start in range(0, len(asked), _BATCH):
        tasks = [task_of(a, model, tokenizer) for a in asked[start : start + _BATCH]]
        texts += type(tasks[0]).batch_generate(tasks)
    return texts


def exact_rates(model: Any, tokenizer: Any, count: int) -> dict[str, dict[int, float]]:
    """Share of exactly right answers by cell and number of context sentences."""
    rates: dict[str, dict[int, float]] = {}
    with tqdm(total=len(CELLS) * len(SIZES), desc="Answering") as bar:
        for cell in CELLS:
            for size in SIZES:
                asked = list(
                    ask(
                        count,
                        seed=_SEED + size,
                        sentences=(size, size),
                        names=cell.names,
                        kinds=cell.kinds,
                        held_out_phrasings=cell.held_out_phrasings,
                    )
                )
                given = answers(model, tokenizer, asked)
                right = [g == a.question.answer for g, a in zip(given, asked, strict=True)]
                rates.setdefault(cell.label, {})[size] = round(sum(right) / count, 3)
                bar.update()
    return rates


def attribution_precision(
    model: Any,
    tokenizer: Any,
    estimator: LinearScoreEstimator,
    count: int,
    sentences: tuple[int, int],
) -> dict[str, Any]:
    """How often the first source is the supporting sentence, among right single-fact answers.

    Args:
        count: questions.
        sentences: how many a context has, from and to.
    """
    hits = {"at2": 0, "average_attention": 0}
    right = 0
    asked = ask(
        count,
        seed=_SEED,
        sentences=sentences,
        names=NameSource(held_out=True),
        kinds=frozenset({"single"}),
    )
    for one in tqdm(asked, total=count, desc="Attributing"):
        task = task_of(one, model, tokenizer)
        if task.generation != one.question.answer:
            continue
        right += 1
        attributors: dict[str, Attributor] = {
            "at2": AT2Attributor(task, estimator),
            "average_attention": AverageAttentionAttributor(task),
        }
        for name, attributor in attributors.items():
            hits[name] += attributor.attribute(top_k=1).sources[0].source.start in one.support
    return {
        "questions": count,
        "answered_right": right,
        "precision_at_1": {name: round(hit / max(1, right), 4) for name, hit in hits.items()},
    }


def markdown(rates: dict[str, dict[int, float]]) -> str:
    """The exact rates as a table."""
    lines = [
        "| sentences in the context | " + " | ".join(map(str, SIZES)) + " |",
        "|---|" + "---|" * len(SIZES),
    ]
    for label, by_size in rates.items():
        cells = [f"{by_size[size]:.3f}" for size in SIZES]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
