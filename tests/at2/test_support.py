"""Support is what the context is worth, and its verdicts are thresholds of one model."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from at2.errors import EstimatorError, EstimatorMismatchError, InputError, SpanError
from at2.estimator.identity import ModelIdentity
from at2.evaluation.support import measure_support, support_of
from at2.evaluation.verdicts import (
    FILE_NAME,
    Calibration,
    Share,
    fit_thresholds,
    load_calibration,
)
from at2.evaluation.verify import verify_spans
from at2.methods import AverageAttentionAttributor
from at2.model.passes import between_passes
from tests.helpers.attribution import RESPONSE, small_llama, small_task, span_log_prob
from tests.helpers.tokenizers import tiny_tokenizer

SUPPORTS = st.lists(st.floats(-5, 5), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def model() -> Any:
    return small_llama()


@pytest.fixture(scope="module")
def calibration(model: Any) -> Calibration:
    identity = ModelIdentity.of(model, tiny_tokenizer("byte_level"))
    return Calibration(identity, supported=0.5, from_memory=-0.5, measured={"of": 3})


def test_support_is_that_of_plain_passes_with_and_without_the_context(model: Any) -> None:
    task = small_task(model, "word")
    found = measure_support(task)
    assert [(s.start, s.end) for s in found] == task.statements
    for one in found:
        span = task.target_range_to_token_range(one.start, one.end, relative=True)
        full, none = (
            span_log_prob(task, span, [keep] * task.num_sources) for keep in (True, False)
        )
        assert one.log_prob == pytest.approx(full, abs=1e-3)
        assert one.log_prob_without == pytest.approx(none, abs=1e-3)
        assert one.support == pytest.approx((full - none) / (span[1] - span[0]), abs=1e-3)
        assert one.text == RESPONSE[one.start : one.end] and one.verdict is None


def test_two_sequences_are_read_however_many_spans_there_are(model: Any) -> None:
    task = small_task(model)
    passes: list[int] = []
    with between_passes(passes.append):
        measure_support(task, [(n, n + 8) for n in range(20)])
    assert 1 <= len(passes) <= 2


def test_a_verified_span_has_the_same_support(model: Any, calibration: Calibration) -> None:
    task = small_task(model)
    spans = [(0, 12), (15, 30)]
    measured = measure_support(task, spans, calibration=calibration)
    verified = verify_spans(AverageAttentionAttributor(task), spans, top_k=1)
    for one, other in zip(measured, verified, strict=True):
        again = support_of(other, calibration)
        assert again.support == pytest.approx(one.support, abs=1e-4)
        assert (again.text, again.verdict) == (one.text, one.verdict)


def test_nothing_is_measured_where_nothing_is_said(model: Any) -> None:
    task = small_task(model)
    assert measure_support(task, []) == []
    with pytest.raises(SpanError):
        measure_support(task, [(5, 3)])
    without = measure_support(small_task(model, context=" "), [(0, 9)])
    assert without[0].support == pytest.approx(0.0, abs=1e-4)


def test_verdicts_change_at_the_thresholds(calibration: Calibration) -> None:
    verdicts = [calibration.verdict(value) for value in (-0.6, -0.5, 0.49, 0.5)]
    assert verdicts == ["from memory", "weak", "weak", "supported"]
    with pytest.raises(InputError, match="from_memory is 1"):
        replace(calibration, from_memory=1.0)


@given(SUPPORTS, SUPPORTS)
def test_few_of_those_fitted_to_get_the_opposite_verdict(
    with_context: list[float], without: list[float]
) -> None:
    lower = [value - 1 for value in without]
    low, high = fit_thresholds(with_context, [lower, without], allowed_error=0.1)
    assert low <= high
    assert (low, high) == fit_thresholds(with_context, [without], allowed_error=0.1)
    assert np.mean(np.array(with_context) < low) <= 0.1
    assert np.mean(np.array(without) >= high) <= 0.1
    with pytest.raises(InputError, match="both kinds"):
        fit_thresholds(with_context, [without, []])


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),  # as in Newcombe, Statistics in Medicine 17 (1998), table I
    [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0), (0, 0, 0.0, 1.0)],
)
def test_shares_have_wilsons_interval(count: int, of: int, low: float, high: float) -> None:
    share = Share.counted(count, of)
    assert (share.low, share.high) == pytest.approx((low, high), abs=5e-5)


def test_a_calibration_lies_beside_its_estimator(calibration: Calibration, tmp_path: Path) -> None:
    assert load_calibration(str(tmp_path)) is None
    assert load_calibration("owner/name-on-the-hub") is None
    calibration.save(tmp_path)
    assert load_calibration(tmp_path) == calibration
    assert load_calibration(tmp_path / "score_estimator.pt") == calibration
    calibration.check_fits(calibration.model)
    with pytest.raises(EstimatorMismatchError, match="not of"):
        calibration.check_fits(replace(calibration.model, config="other"))
    fields = json.loads((tmp_path / FILE_NAME).read_text())
    for wrong in ("[]", "{", json.dumps(fields | {"supported": "much"}), json.dumps({})):
        (tmp_path / FILE_NAME).write_text(wrong)
        with pytest.raises(EstimatorError, match=r"support.json is no calibration"):
            load_calibration(tmp_path)
