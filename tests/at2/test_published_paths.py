"""Code written for the published package finds what it imports, and gets the same from it."""

import importlib
import string
from pathlib import Path

import numpy as np
import pytest
import torch

import at2
from at2.attribution.attention import get_attention_weights, get_attentions_shape
from at2.errors import InputError
from at2.utils import create_registry, get_job_start_and_end, infer_num_jobs, is_sentence
from tests.helpers.models import random_ids, tiny_model

TOKENS = 24


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (
            "at2.attribution",
            "LinearScoreEstimatorTrainer AttentionFeatureExtractor LinearScoreEstimator "
            "ScoreEstimationAttributor AT2Trainer AT2Attributor AT2FeatureExtractor "
            "AT2ScoreEstimator",
        ),
        ("at2.attribution.attention", "get_attention_weights get_attentions_shape"),
        ("at2.attribution.attributors", "Attributor ScoreEstimationAttributor"),
        ("at2.attribution.features", "AttentionFeatureExtractor"),
        ("at2.attribution.score_estimators", "LinearScoreEstimator"),
        ("at2.attribution.trainer", "LinearScoreEstimatorTrainer"),
        ("at2.attribution.utils", "aggregate_logit_probs"),
        ("at2.tasks.base", "AttributionTask"),
        ("at2.tasks.chat", "AttributionTaskWithChatPrompt"),
        (
            "at2.tasks.context_attribution",
            "ContextAttributionTask SimpleContextAttributionTask DEFAULT_GENERATE_KWARGS",
        ),
        (
            "at2.tasks.thought_attribution",
            "ThoughtAttributionTask SimpleThoughtAttributionTask DEFAULT_GENERATE_KWARGS",
        ),
    ],
)
def test_names_are_where_the_published_package_has_them(module: str, names: str) -> None:
    found = importlib.import_module(module)
    for name in names.split():
        assert hasattr(found, name)
        if name.startswith("AT2"):
            assert getattr(found, name) is getattr(at2, name)


def test_thoughts_may_be_longer_than_responses() -> None:
    from at2.tasks import context_attribution, thought_attribution

    assert thought_attribution.DEFAULT_GENERATE_KWARGS["max_new_tokens"] == 4096
    assert context_attribution.DEFAULT_GENERATE_KWARGS["max_new_tokens"] == 512


@pytest.mark.parametrize("family", ["llama", "phi3", "qwen2", "gemma3_text", "gemma2", "gpt_oss"])
def test_attention_weights_follow_from_hidden_states(family: str) -> None:
    model, ids = tiny_model(family), random_ids(TOKENS)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(input_ids=ids[None], output_hidden_states=True, output_attentions=True)
    hidden = [states[:, :-1] for states in output.hidden_states]
    expected = torch.stack([weights[0, :, :-1, :-1] for weights in output.attentions])

    weights = get_attention_weights(model, hidden)
    assert weights.shape == (*get_attentions_shape(model), TOKENS - 1, TOKENS - 1)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)
    part = get_attention_weights(model, hidden, attribution_start=5, attribution_end=9)
    torch.testing.assert_close(part, expected[:, :, 4:8], rtol=0, atol=1e-5)
    # They are those of the hidden states that are given, not of some text.
    others = [states.flip(1) for states in hidden]
    assert not torch.allclose(get_attention_weights(model, others), expected, atol=1e-2)
    with pytest.raises(InputError, match="tokens 1 to 24"):
        get_attention_weights(model, hidden, attribution_end=25)


@pytest.mark.parametrize(("examples", "jobs"), [(10, 3), (7, 7), (5, 8), (0, 2), (64, 2)])
def test_jobs_share_the_examples(examples: int, jobs: int) -> None:
    bounds = [get_job_start_and_end(examples, job, jobs) for job in range(jobs)]
    shares = [list(range(start, end)) for start, end in bounds]
    assert [example for share in shares for example in share] == list(range(examples))
    assert max(map(len, shares)) == -(-examples // jobs)
    job_of, starts = create_registry(examples, jobs)
    assert job_of.dtype == starts.dtype == np.int32
    assert job_of.tolist() == [job for job, share in enumerate(shares) for _ in share]
    assert starts.tolist() == [start for start, _ in bounds]


def test_jobs_may_be_given_by_their_size() -> None:
    assert get_job_start_and_end(10, 2, examples_per_job=4) == (8, 10)
    for wrong in ({}, {"num_jobs": 2, "examples_per_job": 5}):
        with pytest.raises(InputError, match="one of them"):
            get_job_start_and_end(10, 0, **wrong)


def test_the_number_of_jobs_is_in_the_names_of_their_files(tmp_path: Path) -> None:
    assert infer_num_jobs(tmp_path) is None
    (tmp_path / "features.npy").touch()
    assert infer_num_jobs(tmp_path) is None
    (tmp_path / "features_0_of_12.npy").touch()
    assert infer_num_jobs(tmp_path) == 12


def test_what_has_more_than_digits_and_marks_is_a_sentence() -> None:
    for nothing in ("", " \n", "1.", "(2)", string.punctuation + string.digits):
        assert not is_sentence(nothing)
    for something in ("a", "1. a", "é", "。", "2 °"):
        assert is_sentence(something)
