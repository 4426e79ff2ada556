"""Scores equal those of the published `at2` package, for the same ids and estimator file."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from at2 import AT2Attributor, AttentionFeatureExtractor, LinearScoreEstimator
from at2.tasks import SimpleContextAttributionTask
from tests.helpers.published import PEERS, published_scores
from tests.helpers.tokenizers import tiny_tokenizer

CONTEXT = (
    "The quick brown fox was born in 1987. Ada wrote the first program.\n\nNaïve café, Straße!"
)
QUERY = "Who wrote the first program?"
GENERATION = "Ada Lovelace wrote it. The fox did not, it was 42 years old."

_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 6,
    "pad_token_id": 0,
}
_FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig),
    "phi3": (Phi3ForCausalLM, Phi3Config),
}


@pytest.mark.skipif(
    not PEERS.exists() and "CI" not in os.environ,
    reason="the published package is not installed in .peers: run `make test`",
)
@pytest.mark.parametrize("family", _FAMILIES)
def test_scores_equal_the_published_package(family: str, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("byte_level")
    model_class, config_class = _FAMILIES[family]
    torch.manual_seed(0)
    model = model_class(config_class(vocab_size=len(tokenizer), **_SIZES)).eval()
    with torch.no_grad():  # sharper attention than a fresh model's
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    estimator = LinearScoreEstimator(AttentionFeatureExtractor.from_model(model))
    with torch.no_grad():
        estimator.linear.weight.normal_()
    estimator.save_folder(
        tmp_path, {"metrics": {"lds": 0.5}, "training": {"examples": 3}}, date="2025-04-01"
    )

    task = SimpleContextAttributionTask(CONTEXT, QUERY, model, tokenizer, source_type="token")
    task.set_generation(GENERATION)
    ours = AT2Attributor.from_path(task, tmp_path / "score_estimator.pt").scores

    job = {"context": CONTEXT, "query": QUERY, "generation": GENERATION}
    # the published package guesses the architecture from the model's name
    name = "tiny-phi" if family == "phi3" else "tiny-llama"
    (tmp_path / "job.json").write_text(json.dumps(job | {"name": name}))
    published_scores(tmp_path)
    theirs = np.load(tmp_path / "scores.npy").T  # [targets, sources]
    tokens = json.loads((tmp_path / "ids.json").read_text())

    assert tokens["ids"] == task.token_ids
    assert tokens["target"] == list(task.target_token_range)
    # theirs has a source per token, ours one for all tokens of a character: the sum of theirs
    assert [token for token, _ in tokens["sources"]] == [
        token for source in task.source_token_ranges for token in range(*source)
    ]
    first = tokens["sources"][0][0]
    theirs = np.add.reduceat(theirs, [s - first for s, _ in task.source_token_ranges], axis=1)
    assert ours.shape == theirs.shape and np.abs(theirs).max() > 0.05
    assert np.abs(ours - theirs).max() <= 1e-6
    for ours_row, theirs_row in zip(ours, theirs, strict=True):
        top = np.argsort(-theirs_row)[:5]
        assert (np.argsort(-ours_row)[:5] == top).all()
