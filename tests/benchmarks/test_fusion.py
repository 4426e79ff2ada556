"""Weights are fitted to the order of sources, not to how large their shares are."""

import numpy as np
import pytest

from benchmarks.fusion import Case, hits, interval, ranking_weights

RIGHT, WRONG, UNSURE = [0.9, 0.1], [0.1, 0.9], [0.55, 0.45]
FIRST = np.array([True, False])


def _case(*shares: list[float]) -> Case:
    return Case(np.array(shares), FIRST)


def test_what_tells_wrong_from_right_weighs_more_than_what_is_sure_of_itself() -> None:
    # the first signal is nearly all or nothing, and wrong in one of five; the second always right
    cases = [_case(RIGHT, UNSURE, WRONG)] * 4 + [_case(WRONG, UNSURE, WRONG)]
    weights = ranking_weights(cases, ("attribution", "overlap", "retrieval"))
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["overlap"] > weights["attribution"] > 0
    assert weights["retrieval"] == pytest.approx(
        0, abs=1e-6
    )  # wrong throughout, and none is below 0
    assert hits(cases, weights).all() and not hits(cases, {"retrieval": 1.0}).any()


def test_an_interval_holds_the_mean_and_narrows_with_the_number() -> None:
    few, many = np.array([0.0, 1.0] * 10), np.array([0.0, 1.0] * 1000)
    for values in (few, many):
        low, high = interval(values)
        assert low < values.mean() < high
    assert np.subtract(*interval(few)) < np.subtract(*interval(many)) < 0
