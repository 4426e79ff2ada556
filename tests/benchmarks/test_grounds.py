"""What an answer rests on is told by hiding: the sentence, the rest of the context, or memory."""

from typing import Any

import pytest

from at2.tasks import SimpleContextAttributionTask
from benchmarks.grounds import HALF_AS_LIKELY, Drops, measure_drops

POOL = (
    "The municipal pool has a new roof. The pool opens at seven in the morning on every working "
    "day. Lockers take a coin of one euro. Children swim for free on Sundays."
)
POOL_TWICE = (
    POOL + " Remember that the pool opens at seven in the morning, so please do not queue earlier."
)
FRANCE = (
    "The delegates met for two days. They gathered in Paris, the capital of France. The next "
    "meeting is planned for May."
)


@pytest.mark.default_model
@pytest.mark.parametrize(
    ("context", "query", "response", "value", "support", "ground"),
    [
        (POOL, "When does the pool open?", "The pool opens at seven.", "seven", 1, "sentence"),
        (
            POOL_TWICE,
            "When does the pool open?",
            "The pool opens at seven.",
            "seven",
            1,
            "elsewhere",
        ),
        (
            FRANCE,
            "What is the capital of France?",
            "The capital of France is Paris.",
            "Paris",
            1,
            "memory",
        ),
    ],
    ids=["said once", "said twice", "known by heart"],
)
def test_only_what_is_lost_with_its_sentence_rests_on_it(
    default_pair: tuple[Any, Any],
    context: str,
    query: str,
    response: str,
    value: str,
    support: int,
    ground: str,
) -> None:
    task = SimpleContextAttributionTask(context, query, *default_pair, source_type="sentence")
    task.set_generation(response)
    assert value in task.sources[support]
    drops = measure_drops(task, task.find_span(value), {support})
    assert drops.ground == ground, drops


def test_half_as_likely_is_the_border() -> None:
    below = HALF_AS_LIKELY - 1e-9
    assert Drops(HALF_AS_LIKELY, 0.0).ground == "sentence"
    assert Drops(below, HALF_AS_LIKELY).ground == "elsewhere"
    assert Drops(below, below).ground == "memory"
