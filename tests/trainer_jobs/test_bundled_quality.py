"""The shipped model and estimator, on names that training never saw: the bars of the product."""

from functools import cache
from typing import Any

import pytest

from at2 import LinearScoreEstimator, bundled
from at2.utils import get_model_and_tokenizer
from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.questions import ask
from trainer_jobs.bundled.report import answers, attribution_precision

COUNT = 100
SEED = 2_000_003


@cache
def _model() -> tuple[Any, Any]:
    return get_model_and_tokenizer()


def _rate(kind: str, sentences: int, style: str = "mixed") -> float:
    """Share of exactly right greedy answers."""
    asked = list(
        ask(
            COUNT,
            seed=SEED + sentences,
            sentences=(sentences, sentences),
            names=NameSource(held_out=True, style=style),
            kinds=frozenset({kind}),
        )
    )
    given = answers(*_model(), asked)
    return sum(g == a.question.answer for g, a in zip(given, asked, strict=True)) / COUNT


@pytest.mark.parametrize(
    ("sentences", "style", "bar"),
    [(3, "mixed", 0.95), (8, "mixed", 0.95), (8, "real", 0.95), (16, "mixed", 0.90)],
)
def test_single_facts_are_answered_exactly(sentences: int, style: str, bar: float) -> None:
    assert _rate("single", sentences, style) >= bar


@pytest.mark.parametrize("kind", ["about", "absent"])
def test_other_questions_are_answered_exactly(kind: str) -> None:
    assert _rate(kind, 8) >= 0.9


def test_the_first_source_is_the_supporting_sentence() -> None:
    estimator = LinearScoreEstimator.load(bundled.ESTIMATOR_PATH)
    result = attribution_precision(*_model(), estimator, 300, (4, 16))
    precision = result["precision_at_1"]
    assert result["answered_right"] >= 270
    assert precision["at2"] >= 0.97
    # where average attention is never wrong, nothing can be right more often
    assert precision["at2"] > precision["average_attention"] or precision["at2"] == 1.0


def test_it_still_is_in_contexts_longer_than_the_model_was_trained_on() -> None:
    estimator = LinearScoreEstimator.load(bundled.ESTIMATOR_PATH)
    result = attribution_precision(*_model(), estimator, 80, (24, 40))
    assert result["answered_right"] >= 50
    assert result["precision_at_1"]["at2"] >= 0.97
