"""What training reads: responses, features and outputs, sharded and resumed, against plain sums."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from at2 import AT2Trainer
from at2.errors import InputError, NothingToUseError, TrainingError
from at2.training.compute import NUM_MASKS, ComputeSettings, compute
from tests.helpers.training import (
    EXAMPLES,
    LONG,
    NEW_TOKENS,
    folder_contents,
    task_from_example,
)
from tests.helpers.training import make_trainer as trainer_of

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


# -- examples that cannot be used ------------------------------------------------------------------


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
