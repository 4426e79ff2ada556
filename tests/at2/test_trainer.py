"""Training: the three stages on a tiny model, resumed, sharded, and against independent sums."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from at2 import AT2Trainer, LinearScoreEstimator
from at2.errors import TrainingError
from at2.tasks import SimpleContextAttributionTask
from at2.trainer import NUM_MASKS, pearson_loss
from tests.helpers.tokenizers import tiny_tokenizer

EXAMPLES = [
    {"context": f"The fox was {i} years old. Ada wrote it. The dog is lazy!", "query": "Who?"}
    for i in range(20)
]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer("byte_level")),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
    return model


def _task(example: dict[str, str], model: Any, tokenizer: Any) -> SimpleContextAttributionTask:
    return SimpleContextAttributionTask(
        context=example["context"],
        query=example["query"],
        model=model,
        tokenizer=tokenizer,
        source_type="token",
        generate_kwargs={"max_new_tokens": 6, "do_sample": False},
    )


def _trainer(path: Path, model: Any, **settings: Any) -> AT2Trainer:
    settings = {"split_target_by": None} | settings
    return AT2Trainer(path, EXAMPLES, model, tiny_tokenizer("byte_level"), _task, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Any) -> AT2Trainer:
    trainer = _trainer(tmp_path_factory.mktemp("trained"), model)
    trainer.generate()
    trainer.compute_features_and_outputs()
    return trainer


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_workers_of_any_number_write_the_same_bytes(
    tmp_path: Path, model: Any, trained: AT2Trainer
) -> None:
    for index in (1, 0):
        _trainer(tmp_path, model).generate(job_index=index, num_jobs=2)
    for index in (2, 0, 1):
        _trainer(tmp_path, model).compute_features_and_outputs(job_index=index, num_jobs=3)
    ours = _contents(tmp_path)
    assert ours == {k: v for k, v in _contents(trained.save_path).items() if k in ours}
    assert len(ours) == 4  # two shards of each stage


def test_what_is_on_disk_is_not_computed_again(
    trained: AT2Trainer, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = _trainer(trained.save_path, model)
    monkeypatch.setattr(again, "_new_task", lambda index: pytest.fail(f"task {index} made again"))
    again.generate()
    again.compute_features_and_outputs()


def test_features_are_signed_sums_over_sources(trained: AT2Trainer) -> None:
    task = trained.get_task(3)
    tensors = load_file(trained.save_path / "features_and_outputs" / "00000.safetensors")
    masks, logit_probs = task.get_masks_and_logit_probs(NUM_MASKS, 0.5, batch_size=4)
    by_source = trained.feature_extractor(task, [task.target_token_range])[0]
    for row, mask in enumerate(masks):
        expected = sum(by_source[source] * (1 if kept else -1) for source, kept in enumerate(mask))
        torch.testing.assert_close(
            tensors["3.features"][0, row].float(), expected, atol=2e-3, rtol=2e-3
        )
    log_probability = np.log(1 / (1 + np.exp(-logit_probs.astype(np.float64)))).sum(axis=1)
    expected_outputs = log_probability - np.log1p(-np.exp(log_probability))
    np.testing.assert_allclose(tensors["3.outputs"][0].numpy(), expected_outputs, rtol=1e-4)


def test_training_lowers_the_loss_and_saves_both_formats(
    trained: AT2Trainer, capsys: pytest.CaptureFixture[str]
) -> None:
    estimator = trained.train(save_name="default", num_iterations=200)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Training on 20 examples of 20"
    assert lines[1].startswith("Step 0: loss=-") or lines[1].startswith("Step 0: loss=")
    assert [line.split(":")[0] for line in lines[1:4]] == ["Step 0", "Step 99", "Step 199"]
    losses = [float(line.split("=")[1]) for line in lines[1:4]]
    assert losses[2] < losses[0]
    assert lines[4].startswith("Saved estimator to ")
    for name in ("score_estimator.pt", "score_estimator.safetensors"):
        loaded = LinearScoreEstimator.load(trained.save_path / "estimators" / "default" / name)
        assert torch.equal(loaded.linear.weight, estimator.linear.weight)
        assert loaded.extras["training"]["examples"] == 20
    assert estimator.linear.weight.abs().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_same_seed_gives_the_same_estimator(trained: AT2Trainer) -> None:
    first, second = (trained.train(num_iterations=20).linear.weight for _ in range(2))
    assert torch.equal(first, second)


def test_stages_out_of_order_say_what_to_run(tmp_path: Path, model: Any) -> None:
    trainer = _trainer(tmp_path, model)
    with pytest.raises(TrainingError, match="generate"):
        trainer.compute_features_and_outputs()
    with pytest.raises(TrainingError, match="compute_features_and_outputs"):
        trainer.train()


@pytest.mark.parametrize(("index", "jobs"), [(-1, 2), (2, 2), (0, 0)])
def test_a_worker_that_does_not_exist_is_refused(
    tmp_path: Path, model: Any, index: int, jobs: int
) -> None:
    with pytest.raises(TrainingError, match=str(index)):
        _trainer(tmp_path, model).generate(job_index=index, num_jobs=jobs)


def test_the_loss_is_the_negative_correlation() -> None:
    rng = np.random.default_rng(0)
    predictions, outputs = rng.normal(size=(2, 6, 32))
    expected = -np.mean(
        [np.corrcoef(p, o)[0, 1] for p, o in zip(predictions, outputs, strict=True)]
    )
    loss = pearson_loss(torch.tensor(predictions), torch.tensor(outputs))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_constant_outputs_give_no_nan() -> None:
    predictions = torch.randn(3, 8, requires_grad=True)
    loss = pearson_loss(predictions, torch.zeros(3, 8))
    loss.backward()
    assert predictions.grad is not None and torch.isfinite(predictions.grad).all()
