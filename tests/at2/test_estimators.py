"""Estimator files: both formats, damaged ones, and ones that belong to another model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from at2 import AttentionFeatureExtractor, LinearScoreEstimator
from at2.errors import EstimatorError, EstimatorMismatchError
from at2.identity import ModelIdentity

IDENTITY = ModelIdentity("some/model", "abc", "config-1", "tokenizer-1", 3, 4)


def _estimator() -> LinearScoreEstimator:
    estimator = LinearScoreEstimator(AttentionFeatureExtractor(3, 4), extras={"note": "ü"})
    with torch.no_grad():
        estimator.linear.weight.copy_(torch.linspace(-1, 1, 12))
    return estimator


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_saved_is_loaded(tmp_path: Path, suffix: str) -> None:
    saved = _estimator()
    saved.save(tmp_path / f"e.{suffix}", extras={"metrics": {"precision": 0.5}})
    loaded = LinearScoreEstimator.load(tmp_path / f"e.{suffix}")
    assert torch.equal(loaded.linear.weight, saved.linear.weight)
    assert loaded.extras == {"note": "ü", "metrics": {"precision": 0.5}}
    assert (loaded.normalize, loaded.non_negative) == (True, False)
    assert [p.name for p in tmp_path.iterdir()] == [f"e.{suffix}"]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_saving_twice_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        _estimator().save(tmp_path / name / f"score_estimator.{suffix}")
    first, second = (tmp_path / n / f"score_estimator.{suffix}" for n in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()


def test_an_untrained_estimator_is_average_attention() -> None:
    estimator = LinearScoreEstimator(AttentionFeatureExtractor(2, 5))
    features = torch.rand(7, 3, 10)
    torch.testing.assert_close(estimator(features)[..., 0], features.mean(-1))


def test_weights_are_laid_out_layer_by_layer() -> None:
    weights = _estimator().head_weights
    assert weights.shape == (3, 4)
    assert torch.equal(weights.flatten(), torch.linspace(-1, 1, 12))


def test_finalizing_makes_the_absolute_weights_sum_to_one() -> None:
    estimator = _estimator()
    estimator.finalize_parameters()
    assert estimator.linear.weight.abs().sum().item() == pytest.approx(1)
    with torch.no_grad():
        estimator.linear.weight.zero_()
    estimator.finalize_parameters()
    assert torch.isfinite(estimator.linear.weight).all()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_torn_file_is_refused_in_one_line(tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"e.{suffix}"
    _estimator().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(EstimatorError) as caught:
        LinearScoreEstimator.load(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"class": "TransformerScoreEstimator"},
        {"state_dict": {}},
        {"feature_extractor": {"class": "Unknown", "kwargs": {}}},
        {"feature_extractor": {"class": "AttentionFeatureExtractor", "kwargs": {}}},
        {"kwargs": None},
        {"state_dict": {"linear.weight": torch.full((1, 12), float("nan"))}},
        {"state_dict": {"linear.weight": torch.ones(1, 13)}},
    ],
)
def test_an_unknown_layout_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "e.pt"
    _estimator().save(path)
    content = torch.load(path, weights_only=True)
    torch.save(content | change, path)
    with pytest.raises(EstimatorError) as caught:
        LinearScoreEstimator.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.pt"):
        with pytest.raises(EstimatorError):
            LinearScoreEstimator.load(path)


def test_an_estimator_fits_only_the_model_it_was_trained_for() -> None:
    estimator = _estimator()
    estimator.check_fits(IDENTITY)  # a published file: only the shape is known
    with pytest.raises(EstimatorMismatchError, match=r"3 layers × 4 heads.*5 layers × 4 heads"):
        estimator.check_fits(replace(IDENTITY, num_layers=5))
    estimator.extras["identity"] = IDENTITY.to_dict()
    estimator.check_fits(replace(IDENTITY, model="a/copy", revision=None))
    for change in ({"config": "config-2"}, {"tokenizer": "tokenizer-2"}):
        with pytest.raises(EstimatorMismatchError, match=r"some/model.*other/model"):
            estimator.check_fits(replace(IDENTITY, model="other/model", **change))
