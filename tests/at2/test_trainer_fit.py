"""Fitting an estimator to the features of a tiny run: the loss, its settings, what is saved."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, rankdata, spearmanr

from at2 import AT2Trainer, AttentionFeatureExtractor, LinearScoreEstimator
from at2.errors import InputError, TrainingError
from at2.estimator.identity import ModelIdentity
from at2.fingerprints import dataset_fingerprint
from at2.training.fit import Loss, pearson_loss, rank_loss
from at2.training.record import RECORD_FILE
from tests.helpers.tokenizers import tiny_tokenizer
from tests.helpers.training import (
    EXAMPLES,
    HELD_OUT,
    NEW_TOKENS,
    folder_contents,
    make_model,
)
from tests.helpers.training import make_trainer as trainer_of


def test_training_lowers_the_loss_and_saves_both_formats(
    trained: AT2Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    estimator = trained.train(save_name="default", num_iterations=200)
    lines = capsys.readouterr().out.splitlines()
    folder = trained.save_path / "estimators" / "default"
    assert lines[0] == "Training on 10 examples of 10"
    assert [line.split(":")[0] for line in lines[1:4]] == ["Step 0", "Step 99", "Step 199"]
    assert lines[4:] == [f"Saved estimator to {folder}"]
    shown = [float(line.split("loss=")[1]) for line in lines[1:4]]
    assert shown[2] < shown[0]
    losses = json.loads((folder / RECORD_FILE).read_text())["losses"]
    means = [losses[0], np.mean(losses[1:100]), np.mean(losses[100:])]
    assert shown == pytest.approx(means, rel=1e-3) and len(losses) == 200
    for name in ("score_estimator.pt", "score_estimator.safetensors"):
        loaded = LinearScoreEstimator.load(folder / name)
        assert torch.equal(loaded.linear.weight, estimator.linear.weight)
    assert estimator.linear.weight.abs().sum().item() == pytest.approx(1, abs=1e-5)
    assert not (folder / "checkpoint.safetensors").exists()


def test_an_estimator_says_what_it_was_made_of(trained: AT2Trainer, model: Any) -> None:
    trained.train(save_name="told", num_iterations=2, extras={"note": "mine"})
    loaded = LinearScoreEstimator.load(trained.save_path / "estimators" / "told")
    assert loaded.extras["dataset"] == dataset_fingerprint(EXAMPLES)
    assert loaded.extras["identity"] == ModelIdentity.of(model, trained.tokenizer).to_dict()
    assert loaded.extras["training"] == {
        "examples": 10,
        "num_masks": 8,
        "split_target_by": "token",
        "loss": "pearson_loss",
        "num_iterations": 2,
        "learning_rate": 1e-3,
        "batch_size": 512,
        "max_grad_norm": 1.0,
        "sampling": "examples",
        "seed": 0,
    }
    assert loaded.extras["note"] == "mine" and "metrics" not in loaded.extras


def test_held_out_examples_are_reported_on_and_not_trained_on(
    trained: AT2Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    estimator = trained.train(
        save_name="judged", num_iterations=20, print_every=10, held_out_indices=HELD_OUT
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Training on 8 examples of 10"
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        "Held out",
        "Step 0",
        "Step 9",
        "Held out",
        "Step 19",
        "Held out",
    ]
    record = json.loads((trained.save_path / "estimators/judged" / RECORD_FILE).read_text())
    assert list(record["held_out"]) == ["0", "10", "20"]

    # Before the first step every weight is the same; at the end they are those of the estimator.
    for weight, found in (
        (torch.ones(trained.num_features), record["held_out"]["0"]),
        (estimator.linear.weight.detach()[0], record["held_out"]["20"]),
    ):
        pearson, ranks = [], []
        for index in HELD_OUT:
            example = trained.get_features_and_outputs(index)
            for features, outputs in zip(example.features, example.outputs, strict=True):
                predicted = (features.double() @ weight.double()).numpy()
                pearson.append(pearsonr(predicted, outputs.double().numpy()).statistic)
                ranks.append(spearmanr(predicted, outputs.double().numpy()).statistic)
        assert found["correlation"] == pytest.approx(np.mean(pearson), abs=1e-4)
        assert found["lds"] == pytest.approx(np.mean(ranks), abs=1e-2)
        assert (found["examples"], found["targets"]) == (2, 2 * NEW_TOKENS)
    metrics = estimator.extras["metrics"]
    assert metrics == record["held_out"]["20"] | {"before_training": record["held_out"]["0"]}

    without = trained.train(
        num_iterations=20, train_indices=[i for i in range(10) if i not in HELD_OUT]
    )
    assert torch.equal(without.linear.weight, estimator.linear.weight)


def test_what_is_held_out_is_judged_after_the_last_step(trained: AT2Trainer) -> None:
    estimator = trained.train(
        save_name="odd", num_iterations=5, print_every=3, held_out_indices=HELD_OUT
    )
    record = json.loads((trained.save_path / "estimators/odd" / RECORD_FILE).read_text())
    assert list(record["held_out"]) == ["0", "3", "5"]
    last = record["held_out"]["5"]
    assert estimator.extras["metrics"] == last | {"before_training": record["held_out"]["0"]}


def test_what_is_finished_is_not_trained_again(
    trained: AT2Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trained.train(save_name="once", num_iterations=3)
    folder = trained.save_path / "estimators" / "once"
    written = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    capsys.readouterr()
    second = trained.train(save_name="once", num_iterations=3)
    assert torch.equal(second.linear.weight, first.linear.weight)
    assert second.extras.items() >= first.extras.items()
    assert capsys.readouterr().out.splitlines()[1:] == [f"Found estimator in {folder}"]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == written


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_iterations": 4}, "num_iterations is 4, but was 3"),
        ({"learning_rate": 0.1}, "learning_rate is 0.1, but was 0.001"),
        ({"held_out_indices": [1]}, "held_out_indices is "),
        ({"extras": {"note": "other"}}, "extras is "),
    ],
)
def test_a_name_is_for_one_set_of_settings(
    change: dict[str, Any], named: str, trained: AT2Trainer
) -> None:
    settings: dict[str, Any] = {"save_name": "taken", "num_iterations": 3}
    trained.train(**settings)
    whole = folder_contents(trained.save_path / "estimators" / "taken")
    with pytest.raises(
        TrainingError, match=r"^estimator 'taken' was made with other settings: "
    ) as e:
        trained.train(**settings | change)
    assert named in str(e.value) and "\n" not in str(e.value)
    assert folder_contents(trained.save_path / "estimators" / "taken") == whole


@pytest.mark.parametrize("checkpoint_every", [1, 100])
def test_a_name_that_another_training_took_meanwhile_stays_as_that_left_it(
    trained: AT2Trainer, checkpoint_every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"meanwhile-{checkpoint_every}"

    def other(steps: int, figures: Mapping[str, float]) -> None:
        if steps == 1:
            trained.train(save_name=name, num_iterations=4)

    with pytest.raises(TrainingError, match=f"'{name}' was taken meanwhile .* other settings"):
        trained.train(
            save_name=name, num_iterations=3, checkpoint_every=checkpoint_every, report=other
        )
    capsys.readouterr()
    trained.train(save_name=name, num_iterations=4)
    assert "Found estimator" in capsys.readouterr().out


def test_numbers_that_are_not_finite_spoil_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A model that stumbles over one token, as half precision does over large activations."""
    model = make_model()
    (token,) = tiny_tokenizer("byte_level")("Z", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    dataset = [*EXAMPLES[:3], EXAMPLES[0] | {"context": "Z"}]
    strict = trainer_of(tmp_path / "strict", model, dataset=dataset)
    strict.generate()
    with pytest.raises(TrainingError, match=r"^example 3: the model gives numbers that are not"):
        strict.compute_features_and_outputs()

    tolerant = trainer_of(tmp_path / "tolerant", model, dataset=dataset, skip=True)
    tolerant.generate()
    tolerant.compute_features_and_outputs()
    assert (
        "example 3: the model gives numbers that are not finite: it is passed over" in caplog.text
    )
    assert tolerant.load_table().counts == (NEW_TOKENS,) * 3 + (0,)
    assert tolerant.train(num_iterations=2).linear.weight.isfinite().all()


def test_a_loss_that_is_not_finite_ends_training_and_saves_nothing(trained: AT2Trainer) -> None:
    def broken(predictions: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        return (predictions * torch.nan).sum()

    with pytest.raises(TrainingError, match=r"^the loss of step 0 is nan$"):
        trained.train(loss_fn=broken, save_name="broken")
    folder = trained.save_path / "estimators" / "broken"
    assert [path.name for path in folder.iterdir()] == ["manifest.json"]


def test_features_read_from_disk_give_the_same_bytes_as_from_memory(trained: AT2Trainer) -> None:
    folder = trained.save_path / "estimators"
    trained.train(save_name="memory", num_iterations=30, held_out_indices=[0])
    trained.train(save_name="disk", num_iterations=30, held_out_indices=[0], memory_limit=0)
    assert folder_contents(folder / "memory") == folder_contents(folder / "disk")


def test_the_seed_decides_on_the_batches(trained: AT2Trainer, model: Any) -> None:
    weights = [
        trainer_of(trained.save_path, model, seed=seed)
        .train(num_iterations=10, batch_size=3)
        .linear.weight
        for seed in (0, 0, 1)
    ]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_targets_may_be_drawn_from_all_examples_alike(trained: AT2Trainer) -> None:
    by_example = trained.train(num_iterations=10, batch_size=20)
    by_instance = trained.train(num_iterations=10, batch_size=20, sampling_method="instances")
    assert not torch.equal(by_example.linear.weight, by_instance.linear.weight)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"contrast": True}, "contrast is True, but was False"),
        ({"exponents": (1, 0.5)}, "exponents is "),
        ({"num_heads": 3}, "num_heads is 3, but was "),
    ],
)
def test_an_estimator_for_other_features_is_no_start(
    change: dict[str, Any], named: str, trained: AT2Trainer
) -> None:
    features = trained.feature_extractor
    shape = {"num_layers": features.num_layers, "num_heads": features.num_heads}
    start = LinearScoreEstimator(AttentionFeatureExtractor(**shape | change))
    with pytest.raises(InputError, match=named) as caught:
        trained.train(start, num_iterations=1)
    assert caught.value.param == "score_estimator"


def test_training_starts_from_the_given_estimator(trained: AT2Trainer) -> None:
    start = LinearScoreEstimator(trained.feature_extractor, normalize=False, non_negative=True)
    with torch.no_grad():
        start.linear.weight.copy_(torch.linspace(-1, 1, trained.num_features))
    start.extras |= {"note": "mine", "metrics": {"lds": 1}, "date": "2020-01-01"}
    start.extras["library_version"] = "0.0.1"
    before = deepcopy(start)
    found = trained.train(start, num_iterations=1, learning_rate=1e-6)
    assert found is not start and start.extras == before.extras
    assert torch.equal(start.linear.weight, before.linear.weight)
    assert found.extras["note"] == "mine"
    assert not found.extras.keys() & {"metrics", "date", "library_version"}
    expected = torch.linspace(-1, 1, trained.num_features).clamp(min=0)
    torch.testing.assert_close(found.linear.weight[0].detach(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"sampling_method": "tokens"}, "sampling_method"),
        ({"num_iterations": 0}, "num_iterations"),
        ({"batch_size": 0}, "batch_size"),
        ({"print_every": 0}, "print_every"),
        ({"checkpoint_every": 0, "save_name": "none"}, "checkpoint_every"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm"),
        ({"max_grad_norm": 0}, "max_grad_norm"),
        ({"held_out_indices": [10]}, "held_out_indices"),
        ({"train_indices": [-1]}, "train_indices"),
    ],
)
def test_training_settings_out_of_range_are_refused(
    trained: AT2Trainer, settings: dict[str, Any], param: str
) -> None:
    with pytest.raises(InputError) as caught:
        trained.train(**{"save_name": "refused"} | settings)
    assert caught.value.param == param
    assert not (trained.save_path / "estimators" / "refused").exists()


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".", "..", ".hidden", "-x", "a\n", "/x"])
def test_a_name_that_leads_elsewhere_is_refused(trained: AT2Trainer, name: str) -> None:
    with pytest.raises(InputError, match="save_name is ") as caught:
        trained.train(num_iterations=1, save_name=name)
    assert caught.value.param == "save_name" and "\n" not in str(caught.value)


def test_a_name_without_a_step_to_show_is_free_for_other_settings(trained: AT2Trainer) -> None:
    def fails(predictions: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        trained.train(loss_fn=fails, save_name="free")
    found = trained.train(num_iterations=3, save_name="free")
    again = trained.train(num_iterations=3, save_name="free")
    assert torch.equal(found.linear.weight, again.linear.weight)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(trained: AT2Trainer, model: Any, seed: int) -> None:
    with pytest.raises(InputError, match=f"seed is {seed}, not between 0 and 4294967295"):
        trainer_of(trained.save_path, model, seed=seed).train(num_iterations=1, save_name="seed")
    assert not (trained.save_path / "estimators" / "seed").exists()


def test_examples_may_be_given_as_any_iterable(trained: AT2Trainer) -> None:
    listed = trained.train(num_iterations=3, train_indices=[0, 4], held_out_indices=[1])
    given = trained.train(num_iterations=3, train_indices=iter([0, 4]), held_out_indices=iter([1]))
    assert given.extras == listed.extras
    assert torch.equal(given.linear.weight, listed.linear.weight)


@pytest.mark.parametrize("num_masks", [1, 0, -3])
def test_fewer_masks_than_a_correlation_needs_are_refused(
    tmp_path: Path, model: Any, num_masks: int
) -> None:
    with pytest.raises(InputError, match=f"num_masks is {num_masks}, below 2") as caught:
        trainer_of(tmp_path, model, num_masks=num_masks)
    assert caught.value.param == "num_masks"


@pytest.mark.parametrize("split_by", ["verse", "document", "response"])
def test_parts_that_a_target_does_not_have_are_refused(
    tmp_path: Path, model: Any, split_by: str
) -> None:
    with pytest.raises(
        InputError, match=f"'{split_by}': not one of paragraph, sentence, word, token, None"
    ) as caught:
        trainer_of(tmp_path, model, split_target_by=split_by)
    assert caught.value.param == "split_target_by"


def test_a_feature_extractor_of_another_shape_is_refused(tmp_path: Path, model: Any) -> None:
    other = AttentionFeatureExtractor(9, 7)
    with pytest.raises(InputError, match=r"9 layers × 7 heads, .*\d layers × \d heads") as caught:
        trainer_of(tmp_path, model, feature_extractor=other)
    assert caught.value.param == "feature_extractor"


def test_nothing_to_train_on_is_refused(trained: AT2Trainer) -> None:
    with pytest.raises(TrainingError, match="no example has a target"):
        trained.train(train_indices=[1], held_out_indices=[1])


def test_the_loss_is_the_negative_correlation() -> None:
    rng = np.random.default_rng(0)
    predictions, outputs = rng.normal(size=(2, 6, 32))
    expected = -np.mean(
        [np.corrcoef(p, o)[0, 1] for p, o in zip(predictions, outputs, strict=True)]
    )
    loss = pearson_loss(torch.tensor(predictions), torch.tensor(outputs))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_the_rank_loss_is_the_negative_correlation_with_ranks() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions, outputs = torch.randn(2, 5, 12, generator=generator, dtype=torch.float64)
    expected = [
        pearsonr(p, rankdata(o)).statistic
        for p, o in zip(predictions.numpy(), outputs.numpy(), strict=True)
    ]
    assert rank_loss(predictions, outputs).item() == pytest.approx(-np.mean(expected), abs=1e-6)
    # What only stretches the outputs changes nothing.
    assert rank_loss(predictions, outputs.exp()) == rank_loss(predictions, outputs)


def test_equal_outputs_share_their_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randn(1, 9, generator=generator, dtype=torch.float64)
    outputs = torch.tensor([[3.0, 1, 1, 2, 3, 1, 2, 3, 3]])
    expected = pearsonr(predictions[0], rankdata(outputs[0])).statistic
    assert rank_loss(predictions, outputs).item() == pytest.approx(-expected, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
@pytest.mark.parametrize("constant", ["predictions", "outputs", "both"])
@pytest.mark.parametrize("loss_of", [pearson_loss, rank_loss])
def test_an_instance_without_a_correlation_counts_nothing(
    constant: str, value: float, loss_of: Loss
) -> None:
    """Of 7 masks, whose mean is rounded."""
    generator = torch.Generator().manual_seed(0)
    predictions, outputs = torch.randn(2, 3, 7, generator=generator)
    if constant != "outputs":
        predictions[1] = value
    if constant != "predictions":
        outputs[1] = value
    predictions.requires_grad_()
    loss = loss_of(predictions, outputs)
    loss.backward()  # type: ignore[no-untyped-call]
    assert predictions.grad is not None and torch.isfinite(predictions.grad).all()
    assert not predictions.grad[1].any() and predictions.grad[0].any()
    others = loss_of(predictions[[0, 2]], outputs[[0, 2]])
    assert loss.item() == pytest.approx(others.item() * 2 / 3, rel=1e-6)
