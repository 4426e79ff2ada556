"""Estimator files: both formats, damaged ones, and ones that belong to another model."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from at2 import (
    AT2Attributor,
    AttentionFeatureExtractor,
    LinearScoreEstimator,
    __version__,
    load_estimator,
)
from at2.errors import EstimatorError, EstimatorMismatchError, InputError
from at2.estimator.identity import ModelIdentity
from at2.fingerprints import dataset_fingerprint
from at2.tasks import SimpleContextAttributionTask
from tests.helpers.models import tiny_model
from tests.helpers.tokenizers import tiny_tokenizer

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
    assert loaded.extras == {
        "note": "ü",
        "metrics": {"precision": 0.5},
        "library_version": __version__,
    }
    assert (loaded.normalize, loaded.non_negative) == (True, False)
    assert [p.name for p in tmp_path.iterdir()] == [f"e.{suffix}"]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_powers_of_attention_are_saved_and_loaded(tmp_path: Path, suffix: str) -> None:
    saved = LinearScoreEstimator(AttentionFeatureExtractor(3, 4, exponents=(1, 0.5)))
    torch.nn.init.normal_(saved.linear.weight)
    saved.save(tmp_path / f"e.{suffix}")
    loaded = LinearScoreEstimator.load(tmp_path / f"e.{suffix}")
    assert loaded.feature_extractor.exponents == (1.0, 0.5)
    assert loaded.head_weights.shape == (2, 3, 4)
    assert torch.equal(loaded.head_weights, saved.head_weights)


def test_scores_of_an_estimator_are_its_weights_times_its_features() -> None:
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    task = SimpleContextAttributionTask("Ada swims. Ben rows.", "Who swims?", model, tokenizer)
    task.set_generation("Ada does.")
    extractor = AttentionFeatureExtractor.from_model(model, exponents=(1, 0.5))
    estimator = LinearScoreEstimator(extractor)
    torch.nn.init.normal_(estimator.linear.weight, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        by_hand = estimator(extractor(task, [task.target_token_range]))[0, :, 0].numpy()
    scores = AT2Attributor(task, estimator).get_attribution_scores()
    assert scores == pytest.approx(by_hand, abs=1e-5)


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
        {
            "feature_extractor": {
                "class": "AttentionPowersFeatureExtractor",
                "kwargs": {"num_layers": 3, "num_heads": 4, "exponents": [0]},
            }
        },
        {"kwargs": None},
        {"state_dict": {"linear.weight": torch.full((1, 12), float("nan"))}},
        {"state_dict": {"linear.weight": torch.ones(1, 13)}},
        {"state_dict": {"linear.weight": torch.ones(1, 12), "other": torch.ones(1)}},
        {"state_dict": {"linear.weight": torch.full((1, 12), 1e300, dtype=torch.float64)}},
        {"state_dict": {"linear.weight": 1.0}},
        {"state_dict": [torch.ones(1, 12)]},
        {"class": "\x1b[31m" * 1000},
        *(
            {"feature_extractor": {"class": "AttentionFeatureExtractor", "kwargs": kwargs}}
            for kwargs in (
                {"num_layers": 0, "num_heads": 4},
                {"num_layers": -3, "num_heads": -4},
                {"num_layers": float("inf"), "num_heads": 4},
                {"num_layers": 3.5, "num_heads": 4},
                {"num_layers": 10**9, "num_heads": 10**9},
                [3, 4],
            )
        ),
        {"feature_extractor": {"class": "\x1b]0;title\x07", "kwargs": {}}},
    ],
)
def test_an_unknown_layout_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "e.pt"
    _estimator().save(path)
    content = torch.load(path, weights_only=True)
    torch.save(content | change, path)
    with pytest.raises(EstimatorError, match=r"^e\.pt ") as caught:
        LinearScoreEstimator.load(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize("content", [torch.ones(1, 12), [1, 2], "text", None, {}])
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "e.pt")
    with pytest.raises(EstimatorError, match=r"^e\.pt is not a readable estimator: ") as caught:
        LinearScoreEstimator.load(tmp_path / "e.pt")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"\x1b[31m" * 100, b"\x80\x04\x95", b"PK\x03\x04", b"{"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_bytes_of_something_else_are_refused_in_one_line(
    tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"e.{suffix}"
    path.write_bytes(content)
    with pytest.raises(EstimatorError, match=r"is not a readable estimator: ") as caught:
        LinearScoreEstimator.load(path)
    assert str(caught.value).isprintable() and "weights_only" not in str(caught.value)


def test_a_safetensors_file_of_something_else_says_what_is_missing(tmp_path: Path) -> None:
    save_file({"linear.weight": torch.ones(1, 12)}, tmp_path / "e.safetensors")
    with pytest.raises(EstimatorError, match="is not a readable estimator: no 'at2'"):
        LinearScoreEstimator.load(tmp_path / "e.safetensors")


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


# Metadata


METADATA: dict[str, Any] = {
    "identity": IDENTITY.to_dict(),
    "training": {"examples": 3, "optimizer": {"learning_rate": 1e-3}},
    "dataset": "0123",
    "metrics": {"lds": 0.123456789},
}


def test_the_date_is_stored_only_when_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.safetensors"

    def date() -> Any:
        return LinearScoreEstimator.load(path).extras.get("date")

    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    _estimator().save(path)
    assert date() is None
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    _estimator().save(path)
    assert date() == "1970-01-02"
    _estimator().save(path, date="2025-04-01")
    assert date() == "2025-04-01"
    # an estimator that is written again keeps the day on which it was made, and its version
    old = _estimator()
    old.extras |= {"date": "2024-12-31", "library_version": "0.0.1"}
    old.save(path)
    assert date() == "2024-12-31"
    assert LinearScoreEstimator.load(path).extras["library_version"] == "0.0.1"
    old.save(path, date="2025-04-01")  # unless somebody says otherwise
    assert date() == "2025-04-01"


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_numpy_computed_is_saved_as_plain_values(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"e.{suffix}"
    computed = {"a": np.float32(0.5), "b": [np.int64(3)], "c": (np.bool_(True), np.float64(0.25))}
    _estimator().save(path, extras={"metrics": computed})
    metrics = LinearScoreEstimator.load(path).extras["metrics"]
    assert metrics == {"a": 0.5, "b": [3], "c": [True, 0.25]}
    assert [type(value) for value in (metrics["a"], *metrics["b"], *metrics["c"])] == [
        float, int, bool, float,
    ]  # fmt: skip


@pytest.mark.parametrize("value", [object(), np.ones(2), {1, 2}, {(1, 2): 3}, 1j, "\ud800"])
def test_values_that_cannot_be_saved_are_refused_and_nothing_is_written(
    tmp_path: Path, value: object
) -> None:
    with pytest.raises(EstimatorError, match="extras cannot be saved: ") as caught:
        _estimator().save_folder(tmp_path / "made", extras={"note": value})
    assert str(caught.value).isprintable()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, value: float) -> None:
    estimator = _estimator()
    with torch.no_grad():
        estimator.linear.weight[0, 3] = value
    for save in (estimator.save_folder, lambda folder: estimator.save(folder / "e.pt")):
        with pytest.raises(EstimatorError, match="weights are not finite"):
            save(tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_folder_holds_both_formats_and_a_card(tmp_path: Path) -> None:
    _estimator().save_folder(tmp_path / "made", METADATA, date="2025-04-01")
    names = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert names == ["README.md", "score_estimator.pt", "score_estimator.safetensors"]
    both = [LinearScoreEstimator.load(tmp_path / "made" / name) for name in names[1:]]
    assert torch.equal(both[0].linear.weight, both[1].linear.weight)
    expected = {"note": "ü", "library_version": __version__, "date": "2025-04-01", **METADATA}
    assert both[0].extras == both[1].extras == expected
    with safe_open(tmp_path / "made" / names[2], framework="pt") as file:
        assert json.loads(file.metadata()["at2"])["extras"] == expected


def test_the_card_says_what_was_trained_on_what_and_how_well(tmp_path: Path) -> None:
    _estimator().save_folder(tmp_path, METADATA, date="2025-04-01")
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    header = card.split("---")[1]
    assert "base_model: some/model\n" in header and "library_name: at2" in header
    for fact in ("3 × 4", "config-1", "tokenizer-1", "abc", "0123", "2025-04-01", __version__):
        assert f"`{fact}`" in card
    assert "| `optimizer.learning_rate` | `0.001` |" in card
    assert "| `lds` | `0.1235` |" in card


def test_values_cannot_add_anything_to_the_card(tmp_path: Path) -> None:
    hostile = "a/b`\n---\n# Heading | <script>\n```"
    metadata = {
        "identity": IDENTITY.to_dict() | {"model": hostile},
        "metrics": {hostile: hostile},
    }
    _estimator().save_folder(tmp_path, metadata)
    lines = (tmp_path / "README.md").read_text(encoding="utf-8").splitlines()
    assert lines.count("---") == 2
    assert not any(line.startswith("# Heading") for line in lines)
    assert sum(line.startswith("```") for line in lines) == 2
    assert not any(line.startswith("base_model") for line in lines)


def test_a_card_needs_no_metadata(tmp_path: Path) -> None:
    LinearScoreEstimator(AttentionFeatureExtractor(3, 4)).save_folder(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "base_model" not in card and "## Metrics" not in card and "None" not in card


# Other packages and the hub


def test_a_file_of_the_published_package_is_read(tmp_path: Path) -> None:
    weights = torch.linspace(0, 1, 12)[None]
    torch.save(  # as it writes one that it has loaded before, in half precision
        {
            "class": "LinearScoreEstimator",
            "state_dict": {"linear.weight": weights.half()},
            "feature_extractor": {
                "class": "AttentionFeatureExtractor",
                "kwargs": {"num_layers": 3, "num_heads": 4, "model_type": None},
            },
            "kwargs": {"normalize": True, "non_negative": True, "bias": False, "extras": {}},
            "extras": {},
        },
        tmp_path / "score_estimator.pt",
    )
    estimator = LinearScoreEstimator.from_path(tmp_path)
    torch.testing.assert_close(estimator.head_weights, weights.view(3, 4), rtol=0, atol=1e-3)
    assert estimator.head_weights.dtype == torch.float32
    assert estimator.non_negative


def test_a_file_with_code_in_it_is_refused_and_does_not_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return (open, (str(marker), "w"))

    torch.save({"class": Evil()}, tmp_path / "e.pt")
    with pytest.raises(EstimatorError) as caught:
        LinearScoreEstimator.load(tmp_path / "e.pt")
    assert str(caught.value).isprintable() and "weights_only" not in str(caught.value)
    assert not marker.exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository `owner/name` in the hub's cache, as a download leaves it, and no network."""
    repository = tmp_path / "hub" / "models--owner--name"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return snapshot


@pytest.mark.parametrize("name", ["score_estimator.pt", "score_estimator.safetensors"])
def test_an_estimator_comes_from_the_hub(name: str, hub: Path) -> None:
    _estimator().save(hub / name)
    loaded = LinearScoreEstimator.from_hub("owner/name")
    assert torch.equal(loaded.linear.weight, _estimator().linear.weight)
    assert load_estimator("owner/name").extras["note"] == "ü"


@pytest.mark.parametrize("name", ["owner/name", "owner/other", "not a name", "a/b/c"])
def test_what_the_hub_does_not_have_is_refused_in_one_line(name: str, hub: Path) -> None:
    with pytest.raises(EstimatorError, match="cannot fetch estimator") as caught:
        LinearScoreEstimator.from_hub(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["/nowhere/owner/name", "nope.pt", "owner/nope.safetensors", "./owner/name", "../name"]
)
def test_what_can_only_be_a_path_is_not_looked_for_on_the_hub(path: str, hub: Path) -> None:
    with pytest.raises(EstimatorError, match=r"^no estimator file "):
        load_estimator(path)


# What it computes


@pytest.mark.parametrize("bias", [False, True])
def test_scores_of_tokens_are_the_estimator_applied_to_their_attention(bias: bool) -> None:
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model("llama", vocab_size=len(tokenizer))
    task = SimpleContextAttributionTask("The fox. Ada did it.", "Who?", model, tokenizer)
    task.set_generation("Ada did.")
    estimator = LinearScoreEstimator(AttentionFeatureExtractor(3, 4), bias=bias)
    torch.nn.init.normal_(estimator.linear.weight, generator=torch.Generator().manual_seed(0))
    if bias:
        torch.nn.init.constant_(estimator.linear.bias, 0.25)
    start, end = task.target_token_range
    scores = estimator.get_scores(task, start, end)
    assert scores.shape == (end - start, end)
    by_source = torch.stack([scores[:, s:e].sum(1) for s, e in task.source_token_ranges], dim=1)
    attributed = AT2Attributor(task, estimator).get_attribution_scores()
    torch.testing.assert_close(by_source.mean(0), torch.from_numpy(attributed), rtol=0, atol=1e-6)


def test_the_place_of_a_folder_is_not_part_of_an_identity(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model("llama", vocab_size=len(tokenizer))
    model.name_or_path = str(tmp_path / "my-model")
    assert ModelIdentity.of(model, tokenizer).model == "my-model"
    other = tiny_model("llama", vocab_size=len(tokenizer))
    other.name_or_path = "owner/name"
    assert ModelIdentity.of(other, tokenizer).model == "owner/name"


# Data sets


@dataclass(frozen=True)
class Example:
    context: str
    numbers: tuple[int, ...]


def test_a_data_set_is_known_by_its_examples_and_their_order() -> None:
    first, second = {"context": "a", "n": [1, 2]}, {"context": "ü", "n": None}
    known = dataset_fingerprint([first, second])
    assert known == dataset_fingerprint(iter([dict(reversed(first.items())), second]))
    others = [[second, first], [first], [first, second | {"n": 0}], []]
    assert known not in [dataset_fingerprint(examples) for examples in others]
    assert dataset_fingerprint([Example("a", (1,))]) != dataset_fingerprint([Example("a", (2,))])
    with pytest.raises(InputError, match="example 1 is not plain data"):
        dataset_fingerprint([first, {"image": object()}])
