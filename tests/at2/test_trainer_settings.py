"""What a run on disk depends on: other settings are refused, other examples go on from it."""

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from at2 import AT2Trainer, AttentionFeatureExtractor
from at2.errors import InputError, ModelError, TrainingError
from at2.training.responses import read as read_responses
from at2.training.responses import to_bytes
from tests.helpers.training import (
    EXAMPLES,
    HELD_OUT,
    LONG,
    NEW_TOKENS,
    SHARD_SIZE,
    folder_contents,
    make_model,
    run_stages,
    task_from_example,
)
from tests.helpers.training import make_trainer as trainer_of


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_masks": 9}, "num_masks is 9, but was 8"),
        ({"split_target_by": None}, "split_target_by is None, but was 'token'"),
    ],
)
def test_features_made_with_other_settings_are_not_mixed(
    change: dict[str, Any], named: str, trained: AT2Trainer, model: Any
) -> None:
    other = trainer_of(trained.save_path, model, **change)
    with pytest.raises(TrainingError, match=f"features_and_outputs was made with .*: {named}$"):
        other.compute_features_and_outputs()
    with pytest.raises(TrainingError, match=named):
        other.train()


def other_weights() -> Any:
    model = make_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.add_(0.01)
    return model


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"shard_size": 4}, "shard_size is 4, but was 3"),
        ({"dataset": EXAMPLES[1:]}, "prompt is '[0-9a-f]+', but was"),
    ],
)
def test_responses_made_with_other_settings_are_not_mixed(
    change: dict[str, Any], named: str, trained: AT2Trainer, model: Any
) -> None:
    other = trainer_of(trained.save_path, model, **change)
    for stage in (other.generate, other.compute_features_and_outputs, other.train):
        with pytest.raises(TrainingError, match=f"generations was made with other .*{named}"):
            stage()


def test_the_model_and_the_prompt_count_as_settings(trained: AT2Trainer, model: Any) -> None:
    with pytest.raises(TrainingError, match=r"model\.weights is '[0-9a-f]+', but was"):
        trainer_of(trained.save_path, other_weights()).generate()
    asked_otherwise = trainer_of(trained.save_path, model)
    asked_otherwise.task_from_example = lambda example, *rest: task_from_example(
        example | {"query": "Why?"}, *rest
    )
    with pytest.raises(TrainingError, match=r"prompt is '[0-9a-f]+', but was"):
        asked_otherwise.generate()


def copy_of(trained: AT2Trainer, folder: Path) -> Path:
    """A folder of its own with the same responses and features."""
    for name, content in folder_contents(trained.save_path).items():
        if not name.startswith("estimators"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return folder


def times_written(folder: Path) -> dict[str, int]:
    return {
        f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in folder.glob("*/0*")
    }


MORE = [{"context": f"The cat was {i}. Ada wrote it.", "query": "How old?"} for i in range(4)]


def test_more_examples_go_on_from_what_is_there(
    tmp_path: Path, model: Any, trained: AT2Trainer
) -> None:
    folder = copy_of(trained, tmp_path)
    before = times_written(folder)
    grown = run_stages(trainer_of(folder, model, dataset=EXAMPLES + MORE))
    after = times_written(folder)
    # Ten examples fill three shards and begin a fourth, which is the only one made again.
    kept = {name for name in before if after[name] == before[name]}
    assert kept == {name for name in before if "/00003" not in name}
    assert len(after) == 2 * 5
    fresh = run_stages(trainer_of(tmp_path / "fresh", model, dataset=EXAMPLES + MORE))
    ours = folder_contents(folder)
    assert {k: v for k, v in folder_contents(tmp_path / "fresh").items()} == {
        k: v for k, v in ours.items() if not k.startswith("fresh")
    }
    weights = [t.train(num_iterations=5).linear.weight for t in (grown, fresh)]
    assert torch.equal(*weights)


def test_fewer_examples_and_a_changed_one_make_their_shards_again(
    tmp_path: Path, model: Any, trained: AT2Trainer, caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy_of(trained, tmp_path)
    before = times_written(folder)
    changed = [*EXAMPLES[:4], MORE[0], *EXAMPLES[5:8]]
    trainer = trainer_of(folder, model, dataset=changed)
    for stage in (trainer.compute_features_and_outputs, trainer.train):
        with pytest.raises(TrainingError, match=r"00001\.\w+ was made of other examples: run "):
            stage()
    run_stages(trainer)
    after = times_written(folder)
    again = {name.split("/")[1][:5] for name in before if after[name] != before[name]}
    assert again == {"00001", "00002"}
    assert "generations/00001.json was made of other examples: making it again" in caplog.messages
    assert trainer.load_table().num_examples == 8
    fresh = run_stages(trainer_of(tmp_path / "fresh", model, dataset=changed))
    for index in range(8):
        ours, theirs = (t.get_features_and_outputs(index) for t in (trainer, fresh))
        assert torch.equal(ours.features, theirs.features)


def test_features_of_other_responses_are_computed_again(
    tmp_path: Path, model: Any, trained: AT2Trainer
) -> None:
    folder = copy_of(trained, tmp_path)
    before = times_written(folder)
    # The same settings on another machine may end in another response.
    responses = trainer_of(folder, model).run.responses
    found = read_responses(responses.file(1))
    found[4] = replace(found[4], ids=found[4].ids[:2])
    responses.write(1, partial(to_bytes, found))
    trainer_of(folder, model).compute_features_and_outputs()
    after = times_written(folder)
    assert {name for name in before if after[name] != before[name]} == {
        "features_and_outputs/00001.safetensors",
        "generations/00001.json",
    }
    assert trainer_of(folder, model).load_table().counts[4] == 2


@pytest.mark.parametrize("change", [{"token_budget": 77}, {"batch_size": 3}])
def test_other_batches_go_on_and_are_said(
    change: dict[str, int],
    tmp_path: Path,
    model: Any,
    trained: AT2Trainer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = copy_of(trained, tmp_path)
    before = times_written(folder)
    (folder / "generations/00002.json").unlink()
    trainer = trainer_of(folder, model, **{k: v for k, v in change.items() if k != "batch_size"})
    trainer.generate(batch_size=change.get("batch_size", 4))
    trainer.compute_features_and_outputs()
    after = times_written(folder)
    assert {name for name in before if after[name] != before[name]} <= {
        "generations/00002.json",
        "features_and_outputs/00002.safetensors",  # if the response is another one
    }
    ((name, value),) = change.items()
    assert sum(f"{name} is '{value}', but was " in message for message in caplog.messages) == 1
    trainer.train(num_iterations=2)


def test_a_run_that_stopped_at_an_example_goes_on_without_it(tmp_path: Path, model: Any) -> None:
    dataset = [*EXAMPLES[:4], LONG, *EXAMPLES[4:6]]
    strict = trainer_of(tmp_path, model, dataset=dataset)
    with pytest.raises(InputError, match=r"^example 4: "):
        strict.generate()
    before = times_written(tmp_path)
    assert list(before) == ["generations/00000.json"]
    tolerant = run_stages(trainer_of(tmp_path, model, dataset=dataset, skip=True))
    assert times_written(tmp_path)["generations/00000.json"] == before["generations/00000.json"]
    assert list(tolerant.skipped()) == [4]
    # Who asks for none to be skipped is told again.
    with pytest.raises(InputError, match=r"^example 4: "):
        trainer_of(tmp_path, model, dataset=dataset).compute_features_and_outputs()


def test_training_needs_the_features_and_no_model(
    tmp_path: Path, model: Any, trained: AT2Trainer
) -> None:
    settings: dict[str, Any] = {
        "num_iterations": 8,
        "print_every": 4,
        "held_out_indices": HELD_OUT,
        "save_name": "one",
    }
    for place in ("with", "without"):
        (tmp_path / place / "features_and_outputs").mkdir(parents=True)
        copy_of(trained, tmp_path / place)
    trainer_of(tmp_path / "with", model).train(**settings)
    shutil.rmtree(tmp_path / "without/generations")
    alone = AT2Trainer(
        tmp_path / "without",
        EXAMPLES,
        None,
        None,
        task_from_example,
        split_target_by="token",
        num_masks=8,
        shard_size=SHARD_SIZE,
    )
    assert alone.num_features == trained.num_features
    alone.train(**settings)
    assert folder_contents(tmp_path / "without/estimators") == folder_contents(
        tmp_path / "with/estimators"
    )
    with pytest.raises(ModelError, match="needs the model"):
        alone.generate()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_masks": 9}, "num_masks is 9, but was 8"),
        ({"split_target_by": None}, "split_target_by is None, but was 'token'"),
        ({"shard_size": 4}, "shard_size is 4, but was 3"),
        ({"feature_extractor": AttentionFeatureExtractor(9, 7)}, "num_layers is 9, but was"),
    ],
)
def test_training_without_a_model_is_for_the_settings_of_the_features(
    change: dict[str, Any], named: str, trained: AT2Trainer
) -> None:
    wanted = {"split_target_by": "token", "num_masks": 8, "shard_size": SHARD_SIZE} | change
    alone = AT2Trainer(trained.save_path, EXAMPLES, None, None, task_from_example, **wanted)
    with pytest.raises(TrainingError, match=f"features_and_outputs was made with .*{named}"):
        alone.train(num_iterations=1)


def test_prompts_that_differ_later_in_the_dataset_are_noticed(
    trained: AT2Trainer, model: Any
) -> None:
    trainer = trainer_of(trained.save_path, model)
    trainer.task_from_example = lambda example, *rest: task_from_example(
        example | {"query": "Why?" if example is EXAMPLES[4] else example["query"]}, *rest
    )
    trainer.get_task(3)
    with pytest.raises(TrainingError, match="example 4 has another prompt"):
        trainer.get_task(4)


def test_another_environment_is_said_and_not_refused(
    tmp_path: Path, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    threads = torch.get_num_threads()
    trainer_of(tmp_path, model).generate(job_index=0, num_jobs=4)
    torch.set_num_threads(threads + 1)
    try:
        with caplog.at_level(logging.WARNING):
            trainer_of(tmp_path, model).generate(job_index=1, num_jobs=4)
    finally:
        torch.set_num_threads(threads)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record.getMessage() for record in warnings] == [
        "generations was begun in another environment: "
        f"threads is '{threads + 1}', but was '{threads}'"
    ]


def test_trainers_may_share_responses(tmp_path: Path, model: Any, trained: AT2Trainer) -> None:
    other = trainer_of(
        tmp_path, model, num_masks=3, generations_save_path=trained.generations_save_path
    )
    other.compute_features_and_outputs()
    assert other.get_features_and_outputs(4).outputs.shape == (NEW_TOKENS, 3)
    assert not (tmp_path / "generations").exists()


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"num_masks": 0}, "num_masks"),
        ({"num_masks": 1_000_001}, "num_masks"),  # where other methods' masks begin
        ({"shard_size": 0}, "shard_size"),
        ({"token_budget": 0}, "token_budget"),
    ],
)
def test_settings_out_of_range_are_refused(
    tmp_path: Path, model: Any, settings: dict[str, Any], param: str
) -> None:
    with pytest.raises(InputError, match=str(settings[param])) as caught:
        trainer_of(tmp_path, model, **settings)
    assert caught.value.param == param


def test_an_empty_dataset_is_refused(tmp_path: Path, model: Any) -> None:
    with pytest.raises(TrainingError, match="no examples"):
        trainer_of(tmp_path, model, dataset=[])
