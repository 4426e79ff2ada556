"""Features, outputs and trained weights beside those of the published `at2` package."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from at2 import AttentionFeatureExtractor, LinearScoreEstimator
from at2.tasks import SimpleContextAttributionTask
from at2.training.compute import ComputeSettings, ExampleFeatures, compute
from at2.training.fit import FitSettings, fit
from at2.training.table import FeatureTable
from tests.helpers.attribution import small_llama
from tests.helpers.published import PEERS, published_training
from tests.helpers.tokenizers import tiny_tokenizer

pytestmark = pytest.mark.skipif(
    not PEERS.exists() and "CI" not in os.environ,
    reason="the published package is not installed in .peers: run `make test`",
)

NUM_MASKS = 12
FIT: dict[str, Any] = {"num_iterations": 150, "learning_rate": 3e-3, "batch_size": 6, "seed": 7}
EXAMPLES = [
    {
        "context": f"The quick brown fox was born in {1980 + i}. Ada wrote the first program.",
        "query": "Who wrote the first program?" if i % 2 else "How old was the fox?",
        "generation": "Ada Lovelace wrote it. The fox did not." + " It was old." * (i % 3),
    }
    for i in range(9)
]


class Pair(NamedTuple):
    """The same examples by both packages."""

    tasks: list[SimpleContextAttributionTask]
    extractor: AttentionFeatureExtractor
    ours: list[ExampleFeatures]
    theirs: FeatureTable
    folder: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("published")
    tokenizer = tiny_tokenizer("byte_level")
    model = small_llama()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    job = {
        "name": "tiny-llama",
        "examples": EXAMPLES,
        "split_target_by": "sentence",
        "num_masks": NUM_MASKS,
        "fit": FIT,
    }
    (folder / "job.json").write_text(json.dumps(job))
    found = published_training(folder)

    tasks = []
    for example in EXAMPLES:
        task = SimpleContextAttributionTask(
            example["context"], example["query"], model, tokenizer, source_type="token"
        )
        task.set_generation(example["generation"])
        tasks.append(task)
    extractor = AttentionFeatureExtractor.from_model(model)
    ours = compute(model, tasks, extractor, ComputeSettings(num_masks=NUM_MASKS))
    parts = [torch.from_numpy(np.load(found[name])) for name in ("features", "outputs")]
    theirs = FeatureTable([(parts[0], parts[1])], found["targets"])
    return Pair(tasks, extractor, ours, theirs, folder)


def fitted(extractor: AttentionFeatureExtractor, table: FeatureTable) -> LinearScoreEstimator:
    estimator = LinearScoreEstimator(extractor)
    settings = FitSettings(**FIT)
    fit(estimator, table, range(len(EXAMPLES)), settings, device=torch.device("cpu"))
    return estimator


def test_features_agree_to_the_precision_of_float16(pair: Pair) -> None:
    for index, example in enumerate(pair.ours):
        theirs, _ = pair.theirs.example(index)
        assert example.features.shape == theirs.shape and theirs.abs().max() > 0.05
        torch.testing.assert_close(example.features, theirs, rtol=2**-10, atol=2**-13)


def test_outputs_agree(pair: Pair) -> None:
    for index, example in enumerate(pair.ours):
        theirs = np.load(pair.folder / f"outputs_{index}.npy")
        assert np.ptp(theirs, axis=1).min() > 0.01
        np.testing.assert_allclose(example.outputs.numpy(), theirs, rtol=0, atol=1e-3)


def test_the_same_features_and_batches_give_the_same_weights(pair: Pair) -> None:
    theirs = torch.load(pair.folder / "weight.pt", weights_only=True)
    ours = fitted(pair.extractor, pair.theirs).linear.weight.detach()
    assert (ours - theirs).abs().max() <= 1e-4
    assert (theirs - 1 / theirs.numel()).abs().max() > 0.01  # they have moved


def test_our_features_give_an_estimator_that_ranks_sources_alike(pair: Pair) -> None:
    counts = [len(example.outputs) for example in pair.ours]
    table = FeatureTable([(e.features, e.outputs) for e in pair.ours], counts)
    ours = fitted(pair.extractor, table).linear.weight.detach()[0]
    theirs = torch.load(pair.folder / "weight.pt", weights_only=True)[0]
    for task in pair.tasks:
        by_source = pair.extractor(task, task.get_sub_target_token_ranges("sentence"))
        for mine, published in zip(by_source @ ours, by_source @ theirs, strict=True):
            # They round outputs to float16, so sources that are nearly equal may change places.
            gaps = published[:, None] - published
            distinct = gaps.abs() > 0.02 * published.abs().max()
            assert distinct.float().mean() > 0.75
            assert ((mine[:, None] - mine)[distinct].sign() == gaps[distinct].sign()).all()
