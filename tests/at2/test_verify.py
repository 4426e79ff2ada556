"""Verification measures what really happens without the best sources."""

import json
from typing import Any, get_args

import numpy as np
import pytest

from at2.errors import InputError, SpanError
from at2.evaluation.verify import verify, verify_spans
from at2.methods import (
    METHODS,
    Attributor,
    AverageAttentionAttributor,
    ContextCiteAttributor,
    LeaveOneOutAttributor,
)
from at2.model.ablation import Method
from at2.tasks import SimpleContextAttributionTask
from tests.helpers.attribution import RESPONSE, small_llama, small_task, span_log_prob
from tests.helpers.tokenizers import tiny_tokenizer

ABLATIONS = get_args(Method)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_llama()


class _FixedScores(Attributor):
    """Scores given by the test."""

    def __init__(self, task: Any, scores: list[float]) -> None:
        super().__init__(task)
        self.given = scores

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> np.ndarray[Any, Any]:
        return np.array(self.given)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_drops_are_those_of_plain_passes_without_the_sources(model: Any, ablation: Method) -> None:
    task = small_task(model, "word")
    start, end = RESPONSE.index("The"), RESPONSE.index(" years")
    found = verify(AverageAttentionAttributor(task), start, end, top_k=4, ablation=ablation)
    span = task.target_range_to_token_range(start, end, relative=True)

    def log_prob(hidden: set[int]) -> float:
        keep = [i not in hidden for i in range(task.num_sources)]
        return span_log_prob(task, span, keep, ablation)

    full, best = log_prob(set()), [s.source.index for s in found.sources]
    assert found.ablation == ablation and found.num_tokens == span[1] - span[0]
    assert found.log_prob == pytest.approx(full, abs=1e-3)
    for source in found.sources:
        assert source.drop == pytest.approx(full - log_prob({source.source.index}), abs=1e-3)
    assert found.drop_together == pytest.approx(full - log_prob(set(best)), abs=1e-3)
    cited, every = set(found.cited.sources), set(range(task.num_sources))
    assert found.cited.drop == pytest.approx(full - log_prob(cited), abs=1e-3)
    assert found.cited.log_prob_alone == pytest.approx(log_prob(every - cited), abs=1e-3)
    everything = set(range(task.num_sources))
    assert found.drop_all == pytest.approx(full - log_prob(everything), abs=1e-3)
    assert max(abs(s.drop) for s in found.sources) > 0.1


def test_the_ranking_is_the_attributors(model: Any) -> None:
    attributor = AverageAttentionAttributor(small_task(model, "word"))
    found, ranking = verify(attributor, 0, 9, top_k=3), attributor.attribute(0, 9, top_k=3)
    assert [(s.rank, s.source, s.score) for s in found.sources] == [
        (s.rank, s.source, s.score) for s in ranking.sources
    ]
    assert (found.start, found.end, found.text, found.attributed_text) == (
        ranking.start,
        ranking.end,
        ranking.text,
        ranking.attributed_text,
    )


def test_leave_one_out_predicts_each_drop_exactly(model: Any) -> None:
    found = verify(LeaveOneOutAttributor(small_task(model, "word")), top_k=5)
    for source in found.sources:
        assert source.drop == pytest.approx(source.score * found.num_tokens, abs=1e-4)
        assert source.measured_share == pytest.approx(source.predicted_share, abs=1e-4)
    assert found.rank_correlation == pytest.approx(1)


def test_shares_count_what_is_positive(model: Any) -> None:
    task = small_task(model)
    found = verify(_FixedScores(task, [3.0, -2.0, 1.0]), top_k=3)
    assert [s.predicted_share for s in found.sources] == [0.75, 0.25, 0.0]
    assert found.predicted_share_together == 1.0
    drops = np.array([s.drop for s in found.sources]).clip(min=0)
    assert drops.any()
    shares = np.array([s.measured_share for s in found.sources], dtype=float)
    np.testing.assert_allclose(shares, drops / drops.sum())


def test_the_share_together_is_of_all_sources(model: Any) -> None:
    task = small_task(model)
    spans = [(i, i + 1) for i, character in enumerate(RESPONSE) if not character.isspace()]
    verified = verify_spans(_FixedScores(task, [1.0, 2.0, 5.0]), spans, top_k=2)
    for found in verified:
        assert found.predicted_share_together == pytest.approx(7 / 8)
        if found.drop_all > 0:
            assert found.measured_share_together == found.drop_together / found.drop_all
        else:  # without any source the span gains: there is no drop to have a share of
            assert found.measured_share_together is None
    assert {found.drop_all > 0 for found in verified} == {True, False}


def test_without_positive_scores_or_rankings_nothing_is_predicted(model: Any) -> None:
    found = verify(_FixedScores(small_task(model), [0.0, 0.0, 0.0]), top_k=2)
    assert [s.predicted_share for s in found.sources] == [None, None]
    assert found.predicted_share_together is None and found.rank_correlation is None
    assert (
        verify(_FixedScores(small_task(model), [1.0, 2.0, 3.0]), top_k=1).rank_correlation is None
    )


def test_all_sources_hidden_is_the_same_measured_either_way(model: Any) -> None:
    found = verify(AverageAttentionAttributor(small_task(model)), top_k=99)
    assert len(found.sources) == 3
    assert found.drop_together == found.drop_all


def test_spans_together_equal_spans_alone(model: Any) -> None:
    attributor = ContextCiteAttributor(small_task(model, "word"), num_ablations=16)
    spans = [*attributor.task.statements, (3, 4), (0, len(RESPONSE))]
    together = verify_spans(attributor, spans, top_k=2)
    for (start, end), found in zip(spans, together, strict=True):
        alone = verify(attributor, start, end, top_k=2)
        assert found.sources[0].source == alone.sources[0].source
        assert found.drop_together == pytest.approx(alone.drop_together, abs=1e-4)
        assert found.log_prob == pytest.approx(alone.log_prob, abs=1e-4)
    assert verify_spans(attributor, []) == []


@pytest.mark.parametrize(
    "name", [name for name, each in METHODS.items() if not each.needs_estimator]
)
def test_a_verification_is_plain_json(model: Any, name: str) -> None:
    found = verify(METHODS[name].build(small_task(model)))
    assert json.loads(json.dumps(found.to_dict()))["sources"][0]["source"]["text"]


def test_what_cannot_be_verified_is_refused(model: Any) -> None:
    attributor = AverageAttentionAttributor(small_task(model))
    with pytest.raises(InputError, match="0") as caught:
        verify(attributor, top_k=0)
    assert caught.value.param == "top_k"
    with pytest.raises(SpanError):
        verify(attributor, 5, 3)
    with pytest.raises(InputError, match="average"):
        verify(attributor, ablation="average")  # type: ignore[arg-type]
    empty = SimpleContextAttributionTask("", "Who?", model, tiny_tokenizer("byte_level"))
    empty.set_generation(RESPONSE)
    with pytest.raises(InputError, match="no sources"):
        verify(AverageAttentionAttributor(empty))
