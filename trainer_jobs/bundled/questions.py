"""Questions one at a time, as users send them: for training the estimator and for the report."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from at2.tasks import SimpleContextAttributionTask
from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.world import Question, World

_GENERATE_KWARGS = {
    "max_new_tokens": 96,
    "do_sample": False,
    "top_p": None,
    "top_k": None,
    "temperature": None,
}


@dataclass(frozen=True)
class Asked:
    """One question about one context.

    Attributes:
        support: where each supporting sentence starts in the context, in the order of the answer.
    """

    context: str
    question: Question
    support: tuple[int, ...]


def ask(
    count: int,
    *,
    seed: int,
    sentences: tuple[int, int],
    names: NameSource,
    kinds: frozenset[str] = frozenset({"single", "about", "absent"}),
    held_out_phrasings: bool = False,
) -> Iterator[Asked]:
    """`count` questions of the given kinds, each about a context of its own."""
    world = World(names, held_out_phrasings)
    rng = Random(seed)
    while count > 0:
        example = world.example(rng, rng.randint(*sentences), 1)
        (question,) = example.questions
        if question.kind not in kinds:
            continue
        starts, position = [], 0
        for sentence, separator in zip(example.sentences, example.separators, strict=True):
            starts.append(position)
            position += len(sentence) + len(separator)
        yield Asked(example.context, question, tuple(starts[i] for i in question.support))
        count -= 1


def task_of(
    asked: Asked, model: Any, tokenizer: Any, source_type: str = "sentence"
) -> SimpleContextAttributionTask:
    """The attribution task of a question."""
    return SimpleContextAttributionTask(
        context=asked.context,
        query=asked.question.query,
        model=model,
        tokenizer=tokenizer,
        generate_kwargs=_GENERATE_KWARGS,
        source_type=source_type,
    )
