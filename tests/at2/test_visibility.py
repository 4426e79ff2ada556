"""Slopes in the visibility of sources equal those of eager attention with a mask of their own."""

import itertools
import math
import threading
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from accelerate import cpu_offload

from at2.errors import InputError, UnsupportedModelError
from at2.methods import METHODS, VisibilityGradientAttributor
from at2.model.ablation import ablated_logit_probs, sequence_log_probs
from at2.model.capture import AttentionCall
from at2.model.gradients import embedding_gradients
from at2.model.tokens import MarkedTokens
from at2.model.visibility import visibility_gradients
from at2.tasks import SimpleContextAttributionTask
from tests.helpers.attribution import small_llama, small_task
from tests.helpers.models import FAMILIES, LEAKING, WINDOW, random_ids, tiny_model

NUM_TOKENS = WINDOW  # a mask of one's own replaces that of a window
TARGETS = (12, 15)
SOURCES = [(1, 4), (4, 6), (6, 10)]
MINUTES = (
    "The chair, Helen Marsh, opened the meeting at half past seven. Tomás reported that the "
    "society has £1,284 in the bank. The water tank by the north gate leaks and will be replaced "
    "in April. Plot 17 is free again. The next meeting is on 14 April."
)
NOT_BY_ATTENTION = ("bloom", "falcon", "gptj", "mpt", "opt", "qwen3_next", *LEAKING)
"""Attention out of reach; positions that follow the mask; layers without attention."""


def _tokens(ids: torch.Tensor, targets: tuple[int, int] = TARGETS) -> MarkedTokens:
    return MarkedTokens(ids, targets, SOURCES)


def _eager(
    model: Any, ids: torch.Tensor, visibilities: torch.Tensor, window: int | None = None
) -> torch.Tensor:
    """Σ log p of the targets, computed by the model's own eager attention under a mask in which
    each source is seen as much as is said, by all tokens but its own."""
    hidden = torch.full((len(ids), len(ids)), -1e9, dtype=model.dtype)
    mask = hidden.triu(1)
    if window is not None:
        mask = mask + hidden.tril(-window)
    for (start, end), visibility in zip(SOURCES, visibilities, strict=True):
        others = torch.ones(len(ids), dtype=torch.bool)
        others[start:end] = False
        seen = torch.zeros_like(mask)
        seen[:, start:end] = 1
        mask = mask + seen * others[:, None] * visibility.log()
    model.set_attn_implementation("eager")
    logits = model(input_ids=ids[None], attention_mask=mask[None, None], use_cache=False).logits[0]
    log_probs = logits.log_softmax(-1)
    return torch.stack([log_probs[t - 1, ids[t]] for t in range(*TARGETS)]).sum()


def _slopes_of_eager(
    model: Any, ids: torch.Tensor, visibility: float, window: int | None = None
) -> torch.Tensor:
    visibilities = torch.full((len(SOURCES),), visibility, requires_grad=True)
    log_prob = _eager(model, ids, visibilities, window)
    return torch.autograd.grad(log_prob, visibilities)[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_oss", "phi3", "qwen3_moe"])
@pytest.mark.parametrize("visibility", [0.25, 1.0])
def test_slopes_equal_those_of_eager_attention(family: str, visibility: float) -> None:
    ids = random_ids(NUM_TOKENS)
    model = tiny_model(family)
    found = visibility_gradients(model, _tokens(ids), visibility)
    expected = _slopes_of_eager(model, ids, visibility)
    assert expected.abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_sources_out_of_the_window_have_the_slopes_that_other_tokens_pass_on() -> None:
    window = 6
    model, ids = tiny_model("mistral", sliding_window=window), random_ids(NUM_TOKENS)
    assert TARGETS[0] - window > SOURCES[0][1]  # no target sees the first source
    found = visibility_gradients(model, _tokens(ids), 0.25)
    expected = _slopes_of_eager(model, ids, 0.25, window)
    assert expected.abs().min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_offloaded_weights_give_the_same_slopes() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    expected = visibility_gradients(model, _tokens(ids), 0.25)
    offloaded = cpu_offload(tiny_model("llama"), torch.device("cpu"))
    assert torch.equal(visibility_gradients(offloaded, _tokens(ids), 0.25), expected)
    assert all(parameter.is_meta for parameter in offloaded.parameters())


def test_slopes_follow_finite_differences() -> None:
    model, ids, step = tiny_model("gpt2", dtype=torch.float64), random_ids(NUM_TOKENS), 1e-6
    found = visibility_gradients(model, _tokens(ids), 0.4)
    for source in range(len(SOURCES)):
        values = []
        for sign in (1, -1):
            visibilities = torch.full((3,), 0.4, dtype=torch.float64)
            visibilities[source] += sign * step
            with torch.no_grad():
                values.append(_eager(model, ids, visibilities).item())
        slope = (values[0] - values[1]) / (2 * step)
        assert found[source].item() == pytest.approx(slope, rel=1e-6)


def test_slopes_over_the_whole_way_add_up_to_what_an_ablation_loses() -> None:
    """The slopes of all sources, integrated from hidden to seen, are what all are worth."""
    model, ids = small_llama(torch.float64), random_ids(NUM_TOKENS)
    # Visibility e^-u: integrated by u, the slope times the visibility; Gauss-Legendre to e^-30.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    total = 0.0
    for node, weight in zip(nodes, weights, strict=True):
        visibility = math.exp(-15 * (node + 1))
        slopes = visibility_gradients(model, _tokens(ids), visibility)
        total += 15 * weight * visibility * slopes.sum().item()
    all_and_none = np.array([[True] * 3, [False] * 3])
    seen, hidden = sequence_log_probs(ablated_logit_probs(model, _tokens(ids), all_and_none))
    assert abs(seen - hidden) > 0.5
    assert total == pytest.approx(seen - hidden, rel=1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, *LEAKING])
def test_every_family_has_slopes_or_says_that_it_cannot_hide_sources_so(family: str) -> None:
    model, ids = tiny_model(family), random_ids(NUM_TOKENS)
    if family in NOT_BY_ATTENTION:
        with pytest.raises(UnsupportedModelError, match=r"cannot hide tokens|attention interface"):
            visibility_gradients(model, _tokens(ids), 0.25)
        return
    at_once = visibility_gradients(model, _tokens(ids), 0.25)
    assert at_once.shape == (3,) and at_once.dtype == torch.float32
    assert at_once.isfinite().all() and at_once.all()


@pytest.mark.default_model
def test_slopes_predict_what_ablations_do_to_the_default_model(
    default_pair: tuple[Any, Any],
) -> None:
    query = "What will happen to the water tank?"
    task = SimpleContextAttributionTask(MINUTES, query, *default_pair, source_type="sentence")
    task.set_generation("The water tank will be replaced in April.")
    every_set = np.array(list(itertools.product([False, True], repeat=task.num_sources)))
    log_probs = sequence_log_probs(ablated_logit_probs(task.model, task.marked_tokens, every_set))

    def lds(name: str) -> float:
        scores = METHODS[name].build(task).get_attribution_scores()
        return float(scipy.stats.spearmanr(every_set @ scores, log_probs).statistic)

    assert lds("visibility_gradient") > max(0.7, lds("average_attention") + 0.2)


def test_targets_add_up() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    whole = visibility_gradients(model, _tokens(ids), 0.25)
    parts = [visibility_gradients(model, _tokens(ids, (t, t + 1)), 0.25) for t in range(*TARGETS)]
    torch.testing.assert_close(torch.stack(parts).sum(0), whole, rtol=1e-4, atol=1e-4)


def test_a_source_that_comes_after_the_target_or_is_empty_has_no_slope() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    tokens = MarkedTokens(ids, (8, 10), [(2, 6), (6, 6), (12, 14)])
    slopes = visibility_gradients(model, tokens, 0.25)
    assert slopes[0] != 0 and slopes[1:].tolist() == [0, 0]


def test_a_token_of_two_sources_belongs_to_the_later_one() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    overlapping = MarkedTokens(ids, TARGETS, [(1, 6), (4, 10)])
    apart = MarkedTokens(ids, TARGETS, [(1, 4), (4, 10)])
    found = [visibility_gradients(model, tokens, 0.25) for tokens in (overlapping, apart)]
    assert torch.equal(*found)


def test_without_sources_there_are_no_slopes() -> None:
    tokens = MarkedTokens(random_ids(NUM_TOKENS), TARGETS)
    assert visibility_gradients(tiny_model("llama"), tokens, 0.25).shape == (0,)


def test_attention_in_blocks_keeps_no_weights_for_the_way_back() -> None:
    query, key, value = (torch.randn(1, heads, 12, 8).requires_grad_() for heads in (4, 2, 2))
    call = AttentionCall(query, key, None, 8**-0.5)

    def kept(row_bytes: int) -> int:
        sizes: dict[int, int] = {}  # by place: what all blocks share is there once

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            call.output(value, row_bytes)
        return sum(sizes.values())

    weights = 4 * 12 * 12
    assert kept(2**20) > weights > kept(1)


def test_attention_in_blocks_has_the_same_output_and_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 12, 8, generator=generator).requires_grad_() for heads in (4, 2, 2)
    )
    bias = torch.randn(1, 1, 12, 12, generator=generator).requires_grad_()
    call = AttentionCall(query, key, None, 8**-0.5, bias=bias)
    found = []
    for row_bytes in (2**20, 1):
        output = call.output(value, row_bytes)
        leaves = (query, key, value, bias)
        found.append([output, *torch.autograd.grad(output.square().sum(), leaves)])
    for whole, in_blocks in zip(*found, strict=True):
        torch.testing.assert_close(in_blocks, whole)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    visibility_gradients(model, _tokens(ids), 0.25)
    before = [dict(module.__dict__) for module in model.modules()]
    if fails:
        hook = model.model.layers[1].mlp.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            visibility_gradients(model, _tokens(ids), 0.25)
        hook.remove()
    else:
        visibility_gradients(model, _tokens(ids), 0.25)
    for module, kept in zip(model.modules(), before, strict=True):
        assert module.__dict__.keys() == kept.keys()
    assert model.config._attn_implementation == "sdpa"
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_threads_with_other_gradients_of_the_same_model_take_turns() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    slopes = visibility_gradients(model, _tokens(ids), 0.25)
    gradients = embedding_gradients(model, _tokens(ids)).gradients
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def work() -> None:
        for _ in range(5):
            found.append(
                (
                    visibility_gradients(model, _tokens(ids), 0.25),
                    embedding_gradients(model, _tokens(ids)).gradients,
                )
            )

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 15
    for one, other in found:
        assert torch.equal(one, slopes) and torch.equal(other, gradients)


def test_half_precision_gives_finite_slopes_in_float32() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    slopes = visibility_gradients(model, _tokens(random_ids(NUM_TOKENS)), 0.25)
    assert slopes.dtype == torch.float32 and slopes.isfinite().all() and slopes.any()


@pytest.mark.parametrize("visibility", [0, 1e-50, -0.5, 1.01, math.nan, math.inf])
def test_a_visibility_without_a_slope_is_refused(visibility: float) -> None:
    with pytest.raises(InputError, match=f"visibility is {visibility!r}"):
        visibility_gradients(tiny_model("llama"), _tokens(random_ids(NUM_TOKENS)), visibility)
    with pytest.raises(InputError, match=f"visibility is {visibility!r}"):
        VisibilityGradientAttributor(small_task(small_llama()), visibility)


def test_the_attributor_gives_slopes_per_token() -> None:
    task = small_task(small_llama(), "word")
    attributor = VisibilityGradientAttributor(task, 0.5)
    for span in ((0, 3), (2, 9)):
        slopes = visibility_gradients(task.model, task.marked_tokens.part(*span), 0.5)
        np.testing.assert_array_equal(
            attributor.get_attribution_scores(token_start=span[0], token_end=span[1]),
            (slopes / (span[1] - span[0])).numpy(),
        )
