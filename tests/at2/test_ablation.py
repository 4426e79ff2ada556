"""Ablated log-probabilities against masking attention for one set of sources at a time."""

from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from at2.errors import InputError
from at2.model import ablation
from at2.model.ablation import (
    Ablations,
    ablated_logit_probs,
    ablated_logit_probs_of_many,
    aggregate_logit_probs,
    sample_masks,
    sequence_log_probs,
)
from at2.model.hiding import can_drop
from at2.model.tokens import MarkedTokens
from tests.helpers.models import WINDOW, random_ids, tiny_model
from tests.helpers.passes import at_once

TOKENS = 48
SOURCES = [(0, 4), (4, 11), (12, 13), (13, 20), (22, 30)]
TARGET = (36, 46)
# The models differ in how positions, windows, recurrences and the output layer work.
DROPPING = [
    "cohere",  # scales its logits
    "gemma",
    "gpt2",  # learned positions
    "granite",  # scales its logits
    "llama",
    "phi3",
    "qwen3",
    "qwen3_moe",
    "stablelm",
]
MASKING = [
    "bloom",  # positions in the mask, attention not visible
    "falcon",
    "gemma2",  # sliding window, caps its logits
    "gemma3_text",
    "gpt_oss",
    "llama4_text",  # chunks
    "mistral",
    "mpt",
    "opt",  # positions counted from the mask
    "qwen3_next",  # recurrent layers
]


def all_kinds_of_masks() -> NDArray[np.bool_]:
    everything = np.ones((1, len(SOURCES)), dtype=bool)
    return np.concatenate([everything, ~everything, sample_masks(6, len(SOURCES))])


def visible_tokens(mask: NDArray[np.bool_], sources: list[tuple[int, int]]) -> Tensor:
    visible = torch.ones(TOKENS, dtype=torch.long)
    for keep, (start, end) in zip(mask, sources, strict=True):
        visible[start:end] = int(keep)
    return visible


def logit_probs_of(logits: Tensor, labels: Tensor) -> Tensor:
    """log p - log(1 - p), straight from the probabilities of all tokens, in float64."""
    log_p = logits.double().log_softmax(-1)
    others = torch.ones_like(log_p, dtype=torch.bool).scatter_(-1, labels[:, None], False)
    log_1mp = log_p.masked_fill(~others, -torch.inf).logsumexp(-1)
    return log_p.gather(-1, labels[:, None])[:, 0] - log_1mp


def by_masking(
    model: Any,
    ids: Tensor,
    masks: NDArray[np.bool_],
    sources: list[tuple[int, int]] = SOURCES,
    target: tuple[int, int] = TARGET,
) -> NDArray[np.float64]:
    start, end = target
    rows = []
    for mask in masks:
        with torch.no_grad():
            visible = visible_tokens(mask, sources)[None]
            logits = model(input_ids=ids[None], attention_mask=visible, use_cache=False).logits
        rows.append(logit_probs_of(logits[0, start - 1 : end - 1], ids[start:end]))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("family", DROPPING + MASKING)
def test_equals_masking_one_set_at_a_time(family: str) -> None:
    model, ids, masks = tiny_model(family), random_ids(TOKENS), all_kinds_of_masks()

    found = ablated_logit_probs(model, MarkedTokens(ids, TARGET, SOURCES), masks)

    assert can_drop(model, TOKENS) == (family in DROPPING)
    assert found.dtype == np.float32 and found.shape == (len(masks), 10)
    np.testing.assert_allclose(found, by_masking(model, ids, masks), rtol=0, atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1  # hiding everything does change something


def test_dropping_is_exact_in_float64() -> None:
    model, masks = tiny_model("gpt2", dtype=torch.float64), all_kinds_of_masks()
    ids = random_ids(TOKENS)
    found = ablated_logit_probs(model, MarkedTokens(ids, TARGET, SOURCES), masks)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_masking(model, ids, masks), rtol=0, atol=1e-9)


def test_windows_allow_dropping_in_sequences_that_fit_them() -> None:
    model = tiny_model("mistral", sliding_window=40)
    assert can_drop(model, 40) and not can_drop(model, 41)
    assert not can_drop(tiny_model("mistral"), WINDOW + 1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_neither_hides_nor_feigns_exactness(dtype: torch.dtype) -> None:
    assert can_drop(tiny_model("llama", dtype=dtype), TOKENS)
    assert can_drop(tiny_model("qwen3", dtype=dtype), TOKENS)
    assert not can_drop(tiny_model("opt", dtype=dtype), TOKENS)
    assert not can_drop(tiny_model("qwen3_next", dtype=dtype), TOKENS)


@pytest.mark.parametrize("family", ["llama", "mistral", "cohere2"])
@pytest.mark.parametrize("token_budget", [1, 100, 10_000])
def test_results_do_not_depend_on_batches(family: str, token_budget: int) -> None:
    model, ids, masks = tiny_model(family), random_ids(TOKENS), sample_masks(9, len(SOURCES))
    tokens = MarkedTokens(ids, TARGET, SOURCES)
    found = ablated_logit_probs(model, tokens, masks, token_budget=token_budget)
    one = [ablated_logit_probs(model, tokens, mask[None])[0] for mask in masks]
    np.testing.assert_allclose(found, one, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "opt", "qwen3_next"])
@pytest.mark.parametrize("token_budget", [1, 150, 10_000])
def test_many_sequences_at_once_equal_one_after_another(family: str, token_budget: int) -> None:
    model = tiny_model(family)
    many = []
    # The first fits a window of 16, so that hidden tokens are dropped from some and not from all.
    for number, (length, sources, target) in enumerate(
        [
            (16, [(0, 5), (6, 9)], (10, 15)),
            (TOKENS, SOURCES, TARGET),
            (30, [], (12, 29)),
            (20, [(2, 8)], (9, 9)),
            (25, [(3, 20), (20, 24)], (21, 25)),  # a source reaches into the target
        ]
    ):
        masks = sample_masks(5, len(sources), seed=number)
        many.append(Ablations(MarkedTokens(random_ids(length, number), target, sources), masks))

    found = ablated_logit_probs_of_many(model, many, token_budget=token_budget)

    assert [each.shape for each in found] == [(5, 5), (5, 10), (5, 17), (5, 0), (5, 4)]
    for each, case in zip(found, many, strict=True):
        alone = ablated_logit_probs(model, case.tokens, case.masks)
        np.testing.assert_allclose(each, alone, rtol=0, atol=1e-5)
    assert ablated_logit_probs_of_many(model, []) == []


def test_a_pass_never_takes_more_tokens_than_its_budget() -> None:
    model = tiny_model("llama")
    can_drop(model, TOKENS)
    read: list[tuple[int, int]] = []
    model.model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    sequences = [MarkedTokens(random_ids(TOKENS, seed), TARGET, SOURCES) for seed in range(4)]
    many = [
        Ablations(tokens, sample_masks(7, 5, seed=seed)) for seed, tokens in enumerate(sequences)
    ]
    ablated_logit_probs_of_many(model, many, token_budget=200)
    assert all(rows * tokens <= 200 for rows, tokens in read)
    assert sum(rows for rows, _ in read) == sum(len(np.unique(c.masks, axis=0)) for c in many)
    assert max(rows for rows, _ in read) >= 4
    # By length, longest first: little is padded.
    lengths = [tokens for _, tokens in read]
    assert lengths == sorted(lengths, reverse=True)


# They differ in what happens after the output layer, or in how inputs without positions are read.
@pytest.mark.parametrize("family", ["llama", "cohere", "granite", "gemma2", "gpt2", "opt", "mpt"])
@pytest.mark.parametrize("most", [1, 4, 10])
def test_logits_of_long_targets_are_computed_in_parts(
    family: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids, masks = tiny_model(family), random_ids(TOKENS), all_kinds_of_masks()
    whole = ablated_logit_probs(model, MarkedTokens(ids, TARGET, SOURCES), masks)
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, args, __: rows.append(args[0].shape[:-1].numel())
    )
    monkeypatch.setattr(ablation, "_CPU_LOGIT_BYTES", most * 128 * 4)  # a vocabulary of 128

    found = ablated_logit_probs(model, MarkedTokens(ids, TARGET, SOURCES), masks)

    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)
    assert max(rows) == most


@pytest.mark.parametrize("sources", [[(30, 36)], [(10, 20), (35, 40)], [(44, 48)]])
def test_sources_may_reach_into_the_target(sources: list[tuple[int, int]]) -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS)
    masks = np.array(list(np.ndindex(*[2] * len(sources))), dtype=bool)
    np.testing.assert_allclose(
        ablated_logit_probs(model, MarkedTokens(ids, TARGET, sources), masks),
        by_masking(model, ids, masks, sources),
        rtol=0,
        atol=1e-5,
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma3_text", "bloom", "qwen3_next"])
def test_removing_is_scoring_the_shorter_text(family: str) -> None:
    model, ids, masks = tiny_model(family), random_ids(TOKENS), all_kinds_of_masks()
    sources = [*SOURCES[:-1], (22, 36)]  # the last ends where the target starts

    found = ablated_logit_probs(model, MarkedTokens(ids, TARGET, sources), masks, method="remove")

    for mask, row in zip(masks, found, strict=True):
        shorter = ids[visible_tokens(mask, sources).bool()]
        with torch.no_grad():
            logits = model(
                input_ids=shorter[None], attention_mask=torch.ones(1, len(shorter))
            ).logits
        labels = shorter[-12:-2]  # ten targets, two tokens after them
        expected = logit_probs_of(logits[0, -13:-3], labels)
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-5)


def test_equal_masks_and_hidden_tokens_cost_nothing() -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS)
    can_drop(model, TOKENS)
    read, multiplied = [], []
    model.model.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    model.lm_head.register_forward_hook(lambda _, args, __: multiplied.append(args[0].shape))
    masks = np.array([[True] * 5, [False] * 5] * 8)

    ablated_logit_probs(model, MarkedTokens(ids, TARGET, SOURCES), masks, token_budget=1)

    hidden = sum(end - start for start, end in SOURCES)
    assert read == [(1, 45), (1, 45 - hidden)]
    assert multiplied == [(1, 10, 32)] * 2


def test_passes_at_once_on_one_model_do_not_disturb_each_other() -> None:
    model, masks = tiny_model("llama"), all_kinds_of_masks()
    cases = [MarkedTokens(random_ids(TOKENS, i), (30 + i, 46), SOURCES) for i in range(4)]
    alone = [ablated_logit_probs(model, tokens, masks) for tokens in cases]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(8):
            found = ablated_logit_probs(model, cases[index], masks)
            if not np.allclose(found, alone[index], atol=1e-5):
                wrong.append(index)

    at_once(work, len(cases))
    assert not wrong


def test_no_masks_or_no_target_give_empty_results() -> None:
    model, ids = tiny_model("llama"), list(range(10, 20))
    masks = np.ones((3, 1), dtype=bool)
    for target, sources, asked, shape in (
        ((5, 5), [(0, 2)], masks, (3, 0)),
        ((5, 7), [(0, 2)], masks[:0], (0, 2)),
        ((5, 7), [], np.ones((3, 0)), (3, 2)),
    ):
        found = ablated_logit_probs(model, MarkedTokens(ids, target, sources), asked)
        assert found.shape == shape


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_range": (0, 4)}, r"\(0, 4\) is not within tokens 1 to 10"),
        ({"target_range": (5, 11)}, r"\(5, 11\)"),
        ({"source_ranges": [(8, 11)]}, r"source range \(8, 11\)"),
        ({"masks": np.ones((3, 2), dtype=bool)}, r"\(3, 2\) do not fit 1 sources"),
        ({"method": "erase"}, "'erase'"),
        ({"method": "remove", "source_ranges": [(0, 5)]}, "no token before the target"),
        ({"method": "remove", "source_ranges": [(4, 6)]}, "cuts it"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], said: str) -> None:
    marks: dict[str, Any] = {"source_ranges": [(0, 2)], "target_range": (5, 7)}
    call: dict[str, Any] = {"masks": np.zeros((1, 1), dtype=bool)}
    for name, value in change.items():
        (marks if name in marks else call)[name] = value
    with pytest.raises(InputError, match=said):
        ablated_logit_probs(tiny_model("llama"), MarkedTokens(range(10), **marks), **call)


def test_masks_are_the_published_ones() -> None:
    masks = sample_masks(40, 7, 0.3, seed=5)
    for index, mask in enumerate(masks):
        # One uniform number per source, kept where it exceeds 1 - p: what `choice` amounts to.
        draws = np.random.RandomState(5 + index).random_sample(7)
        assert (mask == (draws >= 0.7)).all()
    assert masks.shape == (40, 7) and masks.dtype == np.bool_
    assert sample_masks(2, 6).astype(int).tolist() == [[1, 1, 1, 1, 0, 1], [0, 1, 0, 0, 0, 0]]


def high_precision(logit_probs: list[float]) -> tuple[float, float]:
    """Log-probability and logit of a sequence with hundreds of digits."""
    with mpmath.workdps(400):
        p = mpmath.mpf(1)
        for value in logit_probs:
            p *= 1 / (1 + mpmath.exp(-mpmath.mpf(value)))
        return float(mpmath.log(p)), float(mpmath.log(p) - mpmath.log(1 - p))


@given(st.lists(st.floats(-300, 300), min_size=1, max_size=8))
def test_sequences_aggregate_exactly(logit_probs: list[float]) -> None:
    log_p, logit = high_precision(logit_probs)
    # Near p = 1/2 the logit is a difference of nearly equal numbers: an absolute error remains.
    assert sequence_log_probs(logit_probs) == pytest.approx(log_p, rel=1e-12, abs=1e-300)
    assert aggregate_logit_probs(logit_probs) == pytest.approx(logit, rel=1e-10, abs=1e-12)


def test_aggregation_keeps_leading_dimensions() -> None:
    values = np.random.RandomState(0).randn(2, 3, 4).astype(np.float32)
    assert aggregate_logit_probs(values).shape == sequence_log_probs(values).shape == (2, 3)
    assert aggregate_logit_probs(values[..., :1])[1, 2] == pytest.approx(values[1, 2, 0])
