"""Fused scores are weighted sums of shares, whatever the scales of what is fused."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from at2.errors import InputError
from at2.methods import Attributor, FusionAttributor, LexicalOverlapAttributor
from at2.methods.fusion import DEFAULT_WEIGHTS, SIGNALS
from at2.tasks import DocumentsContextAttributionTask
from tests.helpers.tiny import tiny_pair

DOCUMENTS = ["Ada wrote it. It ran.", "The fox saw it."]
GIVEN = np.array([3.0, -1.0, 1.0])
EQUAL = {"attribution": 1.0, "overlap": 1.0, "retrieval": 1.0}


class Given(Attributor):
    """Scores that are known."""

    scores: NDArray[Any] = GIVEN

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[Any]:
        return self.scores


def attributor(scores: NDArray[Any] = GIVEN, response: str = "Ada wrote.") -> Given:
    task = DocumentsContextAttributionTask(DOCUMENTS, "Who?", *tiny_pair())
    task.set_generation(response)
    made = Given(task)
    made.scores = scores
    return made


def test_each_signal_counts_as_shares_of_its_positive_scores() -> None:
    fusion = FusionAttributor(attributor(), [1.0, 3.0], EQUAL)
    overlap = LexicalOverlapAttributor(fusion.task).get_attribution_scores()
    shares = [[3 / 4, 0, 1 / 4], overlap / overlap.sum(), [1 / 5, 1 / 5, 3 / 5]]
    np.testing.assert_allclose(fusion.get_attribution_scores(), np.mean(shares, axis=0), rtol=1e-6)
    assert fusion.get_attribution_scores().sum() == pytest.approx(1)


def test_the_unit_of_a_signal_does_not_matter() -> None:
    scores = FusionAttributor(attributor(), [1.0, 3.0]).get_attribution_scores()
    other = FusionAttributor(attributor(1000 * GIVEN), [0.02, 0.06]).get_attribution_scores()
    np.testing.assert_allclose(other, scores, rtol=1e-6)


def test_without_retrieval_scores_the_other_weights_fill_its_place() -> None:
    fusion = FusionAttributor(attributor(), weights={**EQUAL, "retrieval": 5.0})
    assert fusion.get_attribution_scores().sum() == pytest.approx(1)
    fusion.use_retrieval_scores([0.0, 1.0])
    best = fusion.attribute().sources[0].source
    assert best.text == "The fox saw it."
    fusion.use_retrieval_scores(None)
    assert fusion.attribute().sources[0].source.text == "Ada wrote it."


def test_retrieval_scores_may_be_one_a_source_and_below_zero() -> None:
    weights = {"attribution": 1e-9, "retrieval": 1.0}
    fusion = FusionAttributor(attributor(), [-3.0, -1.0, -2.0], weights)
    np.testing.assert_allclose(fusion.get_attribution_scores(), [0, 2 / 3, 1 / 3], atol=1e-6)


def test_a_signal_that_says_nothing_takes_its_share_away() -> None:
    fusion = FusionAttributor(attributor(response="Nobody knows."), weights=EQUAL)
    np.testing.assert_allclose(fusion.get_attribution_scores(), [3 / 8, 0, 1 / 8], rtol=1e-6)
    nothing = FusionAttributor(attributor(np.full(3, np.nan), "Nobody knows."), [0.0, 0.0])
    assert not nothing.get_attribution_scores().any()


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "1 retrieval scores for 2 documents with 3 sources"),
        ([1.0] * 4, "4 retrieval scores"),
        ([1.0, float("nan")], "retrieval score 1 is nan"),
        ([float("inf"), 1.0], "retrieval score 0 is inf"),
        ([1.0, "2"], "retrieval score 1 is '2'"),
        ([True, 1.0], "retrieval score 0 is True"),
    ],
)
def test_retrieval_scores_that_are_refused(scores: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        FusionAttributor(attributor(), scores)
    assert caught.value.param == "retrieval_scores"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"at2": 1.0}, "no signal 'at2'"),
        ({"overlap": -1.0}, "-1.0"),
        ({"overlap": float("inf")}, "inf"),
        ({"retrieval": 1.0}, "both 0"),
    ],
)
def test_weights_that_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FusionAttributor(attributor(), weights=weights)


def test_the_weights_that_ship_are_a_mixture() -> None:
    assert set(DEFAULT_WEIGHTS) == set(SIGNALS)
    assert sum(DEFAULT_WEIGHTS.values()) == pytest.approx(1)
