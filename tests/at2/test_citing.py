"""Which sources count: shares of what speaks for a span."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from at2.errors import InputError
from at2.methods import DEFAULT_MIN_SHARE, AverageAttentionAttributor, cited
from service import field_types
from tests.helpers.attribution import small_llama, small_task

SCORES = arrays(np.float64, st.integers(0, 30), elements=st.floats(-10, 10, allow_subnormal=False))


def test_a_source_counts_from_a_share_of_all_positive_scores_on() -> None:
    scores = [6.0, 3.0, 1.0, 0.0, -90.0]
    assert cited(scores, 0.3).tolist() == [True, True, False, False, False]
    assert cited(scores, 0.31).tolist() == [True, False, False, False, False]
    assert cited(scores, 1.0).tolist() == [False] * 5
    assert cited([6.0, -1.0], 1.0).tolist() == [True, False]
    assert cited([], 0.5).tolist() == []


def test_where_no_source_stands_out_none_is_cited() -> None:
    assert not cited(np.ones(6), 0.2).any()
    assert cited(np.ones(5), 0.2).all()


@given(SCORES, st.floats(0.01, 1))
def test_the_cited_are_the_best_and_no_more_than_fit(
    scores: np.ndarray[tuple[int], np.dtype[np.float64]], min_share: float
) -> None:
    counts = cited(scores, min_share)
    assert counts.sum() <= 1 / min_share + 1e-6
    assert (scores[counts] > 0).all()
    if counts.any() and not counts.all():
        assert scores[counts].min() >= scores[~counts].max()
    assert (cited(scores * 1024, min_share) == counts).all()


@pytest.mark.parametrize("min_share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_0_and_1(min_share: float) -> None:
    with pytest.raises(InputError, match="min_share is"):
        cited([1.0], min_share)


def test_an_attribution_says_which_of_its_sources_are_cited() -> None:
    attributor = AverageAttentionAttributor(small_task(small_llama()))
    scores = attributor.get_attribution_scores()
    for min_share in (0.0, DEFAULT_MIN_SHARE, 0.9):
        found = attributor.attribute(top_k=2, min_share=min_share)
        expected = cited(scores, min_share)
        assert [s.cited for s in found.sources] == [expected[s.source.index] for s in found.sources]


def test_the_api_has_the_same_default() -> None:
    assert field_types.DEFAULT_MIN_SHARE == DEFAULT_MIN_SHARE
