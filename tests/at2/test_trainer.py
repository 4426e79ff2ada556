"""What training reads: responses, features and outputs, sharded and resumed, against plain sums."""

import logging
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from at2 import AT2Trainer, AttentionFeatureExtractor
from at2.errors import InputError, ModelError, NothingToUseError, TrainingError
from at2.training.compute import NUM_MASKS, ComputeSettings, compute
from at2.training.responses import read as read_responses
from at2.training.responses import to_bytes
from tests.helpers.training import (
    EXAMPLES,
    NEW_TOKENS,
    SHARD_SIZE,
    folder_contents,
    make_model,
    task_from_example,
    trainer_with_features,
)
from tests.helpers.training import make_trainer as trainer_of

HELD_OUT = [2, 7]


@pytest.fixture(scope="module")
def model() -> Any:
    return make_model()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Any) -> AT2Trainer:
    """A run whose features are done. Each example has as many targets as its response tokens."""
    return trainer_with_features(tmp_path_factory.mktemp("trained"), model)


# -- shards --------------------------------------------------------------------------------------


def test_workers_of_any_number_write_the_same_bytes(
    tmp_path: Path, model: Any, trained: AT2Trainer
) -> None:
    for index in (1, 0):
        trainer_of(tmp_path, model).generate(job_index=index, num_jobs=2)
    for index in (2, 0, 1):
        trainer_of(tmp_path, model).compute_features_and_outputs(job_index=index, num_jobs=3)
    ours = folder_contents(tmp_path)
    assert ours == {k: v for k, v in folder_contents(trained.save_path).items() if k in ours}
    assert len(ours) == 2 * (4 + 1)  # shards and a manifest of each stage


def test_what_is_on_disk_is_not_computed_again(trained: AT2Trainer, model: Any) -> None:
    again = trainer_of(trained.save_path, model)
    passes: list[object] = []
    hook = model.register_forward_pre_hook(lambda *_: passes.append(None))
    try:
        again.generate()
        again.compute_features_and_outputs()
    finally:
        hook.remove()
    assert not passes


def test_a_missing_shard_alone_is_computed(tmp_path: Path, model: Any, trained: AT2Trainer) -> None:
    for name, content in folder_contents(trained.save_path).items():
        if not name.startswith("estimators") and name != "features_and_outputs/00001.safetensors":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    trainer = trainer_of(tmp_path, model)
    with pytest.raises(TrainingError, match="1 of 4 shards are not computed yet"):
        trainer.train()
    made: list[int] = []
    trainer.task_from_example = lambda example, *rest: (
        made.append(EXAMPLES.index(example)) or task_from_example(example, *rest)
    )
    trainer.compute_features_and_outputs(job_index=1, num_jobs=4)
    assert set(made) - {0} == {3, 4, 5}  # the first tells what tasks are like
    name = "features_and_outputs/00001.safetensors"
    assert (tmp_path / name).read_bytes() == (trained.save_path / name).read_bytes()


def test_stages_out_of_order_say_what_to_run(tmp_path: Path, model: Any) -> None:
    trainer = trainer_of(tmp_path, model)
    with pytest.raises(TrainingError, match=r"run generate\(\) first"):
        trainer.compute_features_and_outputs()
    with pytest.raises(TrainingError, match="compute_features_and_outputs"):
        trainer.train()
    assert not folder_contents(tmp_path)  # looking leaves no trace
    trainer.generate(job_index=0, num_jobs=4)
    with pytest.raises(TrainingError, match=r"example 3 yet: run generate\(\) first"):
        trainer.compute_features_and_outputs()


@pytest.mark.parametrize(("index", "jobs"), [(-1, 2), (2, 2), (0, 0)])
def test_a_worker_that_does_not_exist_is_refused(
    tmp_path: Path, model: Any, index: int, jobs: int
) -> None:
    with pytest.raises(TrainingError, match=str(index)):
        trainer_of(tmp_path, model).generate(job_index=index, num_jobs=jobs)


# -- settings ------------------------------------------------------------------------------------


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


def run_stages(trainer: AT2Trainer) -> AT2Trainer:
    trainer.generate()
    trainer.compute_features_and_outputs()
    return trainer


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


# -- examples that cannot be used ------------------------------------------------------------------

LONG = {"context": "The fox was old. " * 200, "query": "Who?"}


def test_an_example_that_cannot_be_used_stops_with_its_number(tmp_path: Path, model: Any) -> None:
    trainer = trainer_of(tmp_path, model, dataset=[*EXAMPLES[:4], LONG])
    with pytest.raises(InputError, match=r"^example 4: .*512"):
        trainer.generate()
    first = trainer_of(tmp_path / "first", model, dataset=[LONG, *EXAMPLES[:4]])
    with pytest.raises(InputError, match=r"^example 0: .*512"):
        first.generate()


def test_or_is_skipped_with_the_reason_on_record(
    tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = [LONG, *EXAMPLES[:4], LONG]
    trainer = trainer_of(tmp_path, model, dataset=dataset, skip=True)
    trainer.generate()
    skipped = trainer.skipped()
    assert list(skipped) == [0, 5] and "512" in skipped[0]
    trainer.compute_features_and_outputs()
    assert trainer.load_table().counts == (0, *[NEW_TOKENS] * 4, 0)
    with pytest.raises(InputError, match=r"example 5 was skipped: .*512"):
        trainer.get_task(5)
    trainer.train(num_iterations=2)
    assert capsys.readouterr().out.startswith("Training on 4 examples of 6\n")


def test_a_dataset_that_gives_no_task_is_refused(tmp_path: Path, model: Any) -> None:
    def give_none(example: Any, *_: Any) -> Any:
        raise InputError(f"no context in {example['query']!r}", param="context")

    trainer = trainer_of(tmp_path, model, dataset=EXAMPLES[:2])
    trainer.task_from_example = give_none
    with pytest.raises(InputError, match=r"^example 0: no context") as caught:
        trainer.generate()
    assert caught.value.param == "context"
    tolerant = trainer_of(tmp_path, model, dataset=EXAMPLES[:2], skip=True)
    tolerant.task_from_example = give_none
    with pytest.raises(NothingToUseError) as nothing:
        tolerant.generate()
    assert str(nothing.value) == (
        "no example can be used; 1 × no context in 'How old?'; 1 × no context in 'Who wrote?'"
    )
    assert nothing.value.reasons == {
        "example 0": "no context in 'How old?'",
        "example 1": "no context in 'Who wrote?'",
    }


@pytest.mark.parametrize("ends", [[], [1, 4]])
def test_examples_without_a_target_are_left_out(
    tmp_path: Path, model: Any, capsys: pytest.CaptureFixture[str], ends: list[int]
) -> None:
    def without_response(example: Any, *rest: Any) -> Any:
        task = task_from_example(example, *rest)
        if EXAMPLES.index(example) in ends:  # whatever comes first ends it
            task.generate_kwargs |= {"eos_token_id": list(range(model.config.vocab_size))}
        return task

    trainer = trainer_of(tmp_path, model, dataset=EXAMPLES[:6], num_masks=4)
    trainer.task_from_example = without_response
    trainer.generate(batch_size=1)
    trainer.compute_features_and_outputs()
    counts = trainer.load_table().counts
    trainer.train(num_iterations=2)
    assert [index for index, count in enumerate(counts) if count == 0] == ends
    assert capsys.readouterr().out.startswith(f"Training on {6 - len(ends)} examples of 6\n")


# -- features and outputs --------------------------------------------------------------------------


def test_features_are_signed_sums_over_sources(trained: AT2Trainer) -> None:
    task, found = trained.get_task(3), trained.get_features_and_outputs(3)
    masks, logit_probs = task.get_masks_and_logit_probs(8, 0.5, batch_size=4)
    start, end = task.target_token_range
    by_source = trained.feature_extractor(task, [(t, t + 1) for t in range(start, end)])
    for target in range(end - start):
        for row, mask in enumerate(masks):
            expected = sum(
                by_source[target, source] * (1 if kept else -1) for source, kept in enumerate(mask)
            )
            torch.testing.assert_close(
                found.features[target, row].float(), expected, atol=1e-3, rtol=1e-3
            )
    assert found.features.dtype == torch.float16 and found.outputs.dtype == torch.float32
    np.testing.assert_allclose(found.outputs.numpy(), logit_probs.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 400, 100_000])
def test_examples_do_not_mind_their_neighbours(
    trained: AT2Trainer, model: Any, token_budget: int
) -> None:
    settings = ComputeSettings(num_masks=8, split_target_by="token", token_budget=token_budget)
    tasks = [None, *map(trained.get_task, range(7)), None]
    finished: list[None] = []
    together = compute(
        model, tasks, trained.feature_extractor, settings, lambda: finished.append(None)
    )
    assert len(finished) == len(together) == 9
    for example in (together[0], together[-1]):
        assert example.features.shape == (0, 8, trained.num_features)
        assert example.outputs.shape == (0, 8)
    for index, example in enumerate(together[1:-1]):
        alone = trained.get_features_and_outputs(index)
        assert torch.equal(example.features, alone.features)
        torch.testing.assert_close(example.outputs, alone.outputs, atol=1e-4, rtol=0)


def test_a_target_of_several_tokens_is_as_likely_as_all_of_them(
    tmp_path: Path, model: Any, trained: AT2Trainer
) -> None:
    whole = trainer_of(
        tmp_path,
        model,
        split_target_by=None,
        num_masks=NUM_MASKS,
        generations_save_path=trained.generations_save_path,
    )
    found = whole.compute_features_and_outputs_for_example(5)
    _, logit_probs = whole.get_task(5).get_masks_and_logit_probs(NUM_MASKS, 0.5)
    log_probability = np.log(1 / (1 + np.exp(-logit_probs.astype(np.float64)))).sum(axis=1)
    expected = log_probability - np.log1p(-np.exp(log_probability))
    assert found.outputs.shape == (1, NUM_MASKS)
    np.testing.assert_allclose(found.outputs[0].numpy(), expected, rtol=1e-4)
