"""Metrics equal plain computations, and say where they do not apply."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2.metrics import (
    linear_datamodeling_score,
    precision_at,
    recall_at,
    spearman,
)
from at2.ranking import best_sources

_few_values = st.lists(st.integers(-3, 3), min_size=2, max_size=12)


def _ranks(values: list[float]) -> list[float]:
    """The mean rank of equal values, by counting."""
    return [sum(o < v for o in values) + (sum(o == v for o in values) + 1) / 2 for v in values]


def _correlation(first: list[float], second: list[float]) -> float:
    n = len(first)
    a, b = sum(first) / n, sum(second) / n
    covariance = sum((x - a) * (y - b) for x, y in zip(first, second, strict=True))
    spreads = [sum((x - m) ** 2 for x in v) for v, m in ((first, a), (second, b))]
    return float(covariance / (spreads[0] * spreads[1]) ** 0.5)


@given(_few_values, st.data())
def test_spearman_is_the_correlation_of_ranks(first: list[float], data: Any) -> None:
    second = data.draw(st.lists(st.integers(-3, 3), min_size=len(first), max_size=len(first)))
    value = spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert value is None
    else:
        assert value == pytest.approx(_correlation(_ranks(first), _ranks(second)), abs=1e-9)


def test_spearman_of_one_value_is_not_defined() -> None:
    assert spearman([1.0], [2.0]) is None
    assert spearman([], []) is None


def test_what_is_not_a_number_has_no_rank_and_what_is_infinite_has_one() -> None:
    assert spearman([1.0, np.nan, 3.0], [1.0, 2.0, 3.0]) is None
    assert spearman([1.0, 2.0, 3.0], [np.nan] * 3) is None
    assert spearman([-np.inf] * 3, [1.0, 2.0, 3.0]) is None
    assert spearman([-np.inf, 2.0, np.inf], [1.0, 2.0, 3.0]) == pytest.approx(1)


def test_lds_is_one_for_the_scores_that_made_the_measurements() -> None:
    random = np.random.default_rng(0)
    scores, masks = random.normal(size=6), random.random((50, 6)) < 0.5
    log_probs = np.tanh(masks @ scores)  # any rising function of the sums
    assert linear_datamodeling_score(scores, masks, log_probs) == pytest.approx(1)
    assert linear_datamodeling_score(-scores, masks, log_probs) == pytest.approx(-1)


def test_lds_does_not_apply_where_nothing_changes_and_is_zero_for_constant_predictions() -> None:
    masks = np.array([[True, False], [False, True], [True, True]])
    assert linear_datamodeling_score([1.0, 2.0], masks, [-1.0, -1.0, -1.0]) is None
    assert linear_datamodeling_score([1.0, 2.0], masks[:1], [-1.0]) is None
    assert linear_datamodeling_score([0.0, 0.0], masks, [-1.0, -2.0, -3.0]) == 0.0


def test_lds_of_numbers_that_are_not_finite() -> None:
    masks = np.array([[True, False], [False, True], [True, True]])
    assert linear_datamodeling_score([1.0, 2.0], masks, [-1.0, np.nan, -3.0]) is None
    assert linear_datamodeling_score([1.0, 2.0], masks, [-np.inf] * 3) is None
    assert linear_datamodeling_score([1.0, 2.0], masks, [-np.inf, -2.0, -1.0]) == pytest.approx(1)
    for score in (np.nan, np.inf):
        assert linear_datamodeling_score([1.0, score], masks, [-1.0, -2.0, -3.0]) == 0.0


@given(_few_values, st.integers(1, 14))
def test_best_sources_are_sorted_with_ties_in_order(scores: list[float], k: int) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert best_sources(scores, k).tolist() == expected


@given(_few_values, st.sets(st.integers(0, 11), min_size=1), st.integers(1, 12))
def test_precision_and_recall_count_hits(scores: list[float], support: set[int], k: int) -> None:
    best = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    hits = sum(i in support for i in best)
    assert precision_at(scores, support, k) == hits / k
    assert recall_at(scores, support, k) == hits / len(support)
