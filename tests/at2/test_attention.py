"""Captured attention against `output_attentions=True` under eager attention."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from at2.errors import CaptureMismatchError, InputError, UnsupportedModelError
from at2.model.attention import attention_shape, check_capture, source_features, token_scores
from at2.model.capture import AttentionCall
from at2.model.tokens import MarkedTokens
from at2.model.weighing import Weighing
from at2.ranges import TokenRange
from tests.helpers.models import FAMILIES, WINDOW, random_ids, tiny_model
from tests.helpers.passes import at_once, fits_memory

TOKENS = 48  # three times the window of the families that have one
BYPASSING = ["bloom", "falcon", "gptj", "mpt"]
SUPPORTED = sorted(set(FAMILIES) - set(BYPASSING))


def eager_attention(family: str, ids: Tensor, **overrides: Any) -> Tensor:
    """What an untouched copy of the model says of itself: [layers, heads, tokens, tokens]."""
    model = tiny_model(family, **overrides)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(input_ids=ids[None], output_attentions=True, use_cache=False)
    return torch.cat([a for a in output.attentions if a is not None]).float()


@pytest.mark.parametrize("family", SUPPORTED)
def test_every_weight_equals_eager_attention(family: str) -> None:
    ids = random_ids(TOKENS)
    expected = eager_attention(family, ids)  # [layers, heads, tokens, tokens]
    targets = [(t, t + 1) for t in range(1, TOKENS)]
    sources = [(t, t + 1) for t in range(TOKENS)]

    features = source_features(tiny_model(family), MarkedTokens(ids, (1, TOKENS), sources), targets)

    weights = features.view(len(targets), TOKENS, *expected.shape[:2]).permute(2, 3, 0, 1)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, expected[:, :, : TOKENS - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", SUPPORTED)
def test_token_scores_are_the_weighted_sum_over_layers_and_heads(family: str) -> None:
    ids = random_ids(TOKENS, seed=1)
    expected = eager_attention(family, ids)
    weights = torch.randn(expected.shape[:2], generator=torch.Generator().manual_seed(2))
    start, end = 30, 45

    scores = token_scores(tiny_model(family), MarkedTokens(ids, (start, end)), Weighing(weights))

    assert scores.shape == (end - start, end) and scores.dtype == torch.float32
    by_hand = sum(
        weights[layer, head] * expected[layer, head, start - 1 : end - 1, :end]
        for layer in range(expected.shape[0])
        for head in range(expected.shape[1])
    )
    torch.testing.assert_close(scores, by_hand, rtol=0, atol=1e-5)


def test_features_are_means_over_targets_of_sums_over_sources() -> None:
    ids = random_ids(TOKENS)
    expected = eager_attention("llama", ids)
    targets = [(20, 31), (25, 40), (1, 2), (33, 33), (40, 48)]  # overlapping, first, empty, last
    sources = [(0, 5), (5, 20), (3, 9), (12, 12), (44, 48)]

    features = source_features(
        tiny_model("llama"), MarkedTokens(ids, (1, TOKENS), sources), targets
    )

    heads = expected.shape[1]
    assert features.shape == (len(targets), len(sources), expected.shape[0] * heads)
    for t, (start, end) in enumerate(targets):
        for s, (first, last) in enumerate(sources):
            for layer in range(expected.shape[0]):
                for head in range(heads):
                    block = expected[layer, head, start - 1 : end - 1, first:last].double()
                    by_hand = block.sum(1).mean().item() if start < end else 0.0
                    assert features[t, s, layer * heads + head].item() == pytest.approx(
                        by_hand, abs=1e-6
                    )


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt_oss"])
def test_powers_of_attention_are_taken_token_by_token(family: str) -> None:
    ids, exponents = random_ids(TOKENS), (1.0, 0.5, 2.0)
    expected = eager_attention(family, ids).double()  # [layers, heads, tokens, tokens]
    layers, heads = expected.shape[:2]
    weights = torch.randn(3, layers, heads, generator=torch.Generator().manual_seed(2))
    targets, sources = [(30, 45), (40, 48)], [(0, 5), (5, 20), (12, 12)]

    scores = token_scores(
        tiny_model(family), MarkedTokens(ids, (30, 45)), Weighing(weights, exponents)
    )
    features = source_features(
        tiny_model(family), MarkedTokens(ids, (1, TOKENS), sources), targets, exponents=exponents
    )

    raised = torch.stack([expected**p for p in exponents])  # [exponents, layers, heads, …]
    by_hand = torch.einsum("plh,plhtk->tk", weights.double(), raised[..., 29:44, :45])
    # near zero a root is steep: what the weights themselves differ by, 1e-6, is 1e-3 of its root
    torch.testing.assert_close(scores.double(), by_hand, rtol=1e-4, atol=1e-4)
    assert features.shape == (2, 3, 3 * layers * heads)
    for t, (start, end) in enumerate(targets):
        for s, (first, last) in enumerate(sources):
            block = raised[..., start - 1 : end - 1, first:last].sum(-1).mean(-1).flatten()
            torch.testing.assert_close(features[t, s].double(), block, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("row_bytes", [1, 2**20])
@pytest.mark.parametrize("of_sums", [False, True])
def test_a_contrast_is_taken_off_for_what_stands_before_the_query(
    of_sums: bool, row_bytes: int
) -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS, seed=8)
    shape = attention_shape(model)
    weights = torch.randn(
        shape.num_layers, shape.num_heads, generator=torch.Generator().manual_seed(9)
    )
    # Before the query, across its beginning, within, behind it, and among the targets.
    sources = [(0, 3), (5, 11), (12, 14), (17, 20), (31, 33), (40, 40)]
    tokens = MarkedTokens(ids, (30, 45), sources, query_range=(10, 16))
    targets = [(30, 31), (33, 45), (40, 40)]
    by_token = token_scores(model, tokens, Weighing(weights, contrast=True))
    expected = torch.zeros(len(targets), len(sources))
    for i, (start, end) in enumerate(targets[:2]):
        for j, (low, high) in enumerate(sources):
            expected[i, j] = by_token[start - 30 : end - 30, low:high].sum(1).mean()

    in_sums = torch.eye(len(sources)) if of_sums else None
    features = source_features(
        model, tokens, targets, source_weights=in_sums, contrast=True, row_bytes=row_bytes
    )

    plain = source_features(model, tokens, targets)
    torch.testing.assert_close(features @ weights.flatten(), expected, rtol=0, atol=1e-5)
    assert (features - plain)[:2, :2].abs().amax() > 1e-3
    torch.testing.assert_close(features[:, 2:], plain[:, 2:], rtol=0, atol=1e-6)


def test_one_exponent_needs_no_dimension_of_its_own() -> None:
    model, ids, weights = tiny_model("llama"), random_ids(TOKENS), torch.rand(3, 4)
    assert torch.equal(
        token_scores(model, MarkedTokens(ids, (20, 30)), Weighing(weights)),
        token_scores(model, MarkedTokens(ids, (20, 30)), Weighing(weights[None], (1,))),
    )


@pytest.mark.parametrize("exponents", [(), (1.0, 1.0), (0.0,), (-0.5, 1.0), (float("nan"),)])
def test_exponents_that_are_none_are_refused(exponents: tuple[float, ...]) -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS)
    weights = torch.ones(len(exponents), 3, 4)
    with pytest.raises(InputError, match="exponents"):
        token_scores(model, MarkedTokens(ids, (20, 30)), Weighing(weights, exponents))
    with pytest.raises(InputError, match="exponents"):
        source_features(
            model, MarkedTokens(ids, (1, len(ids)), [(0, 5)]), [(20, 30)], exponents=exponents
        )


def test_weights_must_have_every_exponent() -> None:
    with pytest.raises(InputError, match="of 2 powers"):
        token_scores(
            tiny_model("llama"),
            MarkedTokens(random_ids(TOKENS), (20, 30)),
            Weighing(torch.ones(3, 4), (1.0, 0.5)),
        )


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gpt_oss"])
def test_results_do_not_depend_on_the_block_size(family: str) -> None:
    model, ids = tiny_model(family), random_ids(TOKENS)
    shape = attention_shape(model)
    weights = torch.linspace(-1, 1, shape.num_layers * shape.num_heads).view(shape.num_layers, -1)
    targets, sources = [(10, 40), (30, 48)], [(0, 12), (12, 30)]
    row = 4 * shape.num_heads * TOKENS * 4
    for row_bytes in (1, 5 * row):
        torch.testing.assert_close(
            token_scores(
                model, MarkedTokens(ids, (10, 40)), Weighing(weights), row_bytes=row_bytes
            ),
            token_scores(model, MarkedTokens(ids, (10, 40)), Weighing(weights)),
            rtol=0,
            atol=2e-6,
        )
        torch.testing.assert_close(
            source_features(
                model, MarkedTokens(ids, (1, TOKENS), sources), targets, row_bytes=row_bytes
            ),
            source_features(model, MarkedTokens(ids, (1, TOKENS), sources), targets),
            rtol=0,
            atol=2e-6,
        )


@pytest.mark.parametrize(
    "targets", [[(20, 48)], [(position, position + 1) for position in range(20, 48)]]
)
def test_weighted_sums_are_those_of_every_source(targets: list[TokenRange]) -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS)
    tokens = MarkedTokens(ids, (1, TOKENS), [(start, start + 3) for start in range(0, 18, 3)])
    weights = torch.linspace(-1, 1, 4 * 6).view(4, 6)
    every_source = source_features(model, tokens, targets)
    sums = source_features(model, tokens, targets, source_weights=weights)
    assert sums.shape == (len(targets), 4, 12)
    torch.testing.assert_close(sums, weights @ every_source, rtol=0, atol=2e-6)


def test_no_targets_or_no_sources_give_empty_results_without_a_pass() -> None:
    model, ids = tiny_model("llama"), list(range(10, 20))
    empty, one = MarkedTokens(ids, (5, 5)), MarkedTokens(ids, (4, 6), [(0, 3)])
    assert token_scores(model, empty, Weighing(torch.ones(3, 4))).shape == (0, 5)
    assert source_features(model, one, []).shape == (0, 1, 12)
    assert source_features(model, empty, [(4, 6)]).shape == (1, 0, 12)


def test_tokens_after_the_target_change_nothing() -> None:
    model, ids = tiny_model("qwen3"), random_ids(TOKENS)
    weights = torch.ones(3, 4)
    assert torch.equal(
        token_scores(model, MarkedTokens(ids, (20, 30)), Weighing(weights)),
        token_scores(model, MarkedTokens(ids[:30], (20, 30)), Weighing(weights)),
    )


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(implementation: str) -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS)
    model.set_attn_implementation(implementation)
    before = model(input_ids=ids[None]).logits
    token_scores(model, MarkedTokens(ids, (20, 30)), Weighing(torch.ones(3, 4)))
    with pytest.raises(RuntimeError, match="sideways"):  # also after a failure inside the pass
        handle = model.model.layers[1].register_forward_pre_hook(fail)
        token_scores(model, MarkedTokens(ids, (20, 30)), Weighing(torch.ones(3, 4)))
    handle.remove()
    assert model.config._attn_implementation == implementation
    assert torch.equal(before, model(input_ids=ids[None]).logits)
    model(input_ids=ids[None]).logits.sum().backward()


def fail(*_: Any) -> None:
    raise RuntimeError("sideways")


def test_nothing_after_the_last_attention_is_computed() -> None:
    model, ran = tiny_model("llama"), []
    attention_shape(model)
    for name, module in model.named_modules():
        module.register_forward_hook(lambda *_, name=name: ran.append(name))
    token_scores(model, MarkedTokens(random_ids(TOKENS), (20, 30)), Weighing(torch.ones(3, 4)))
    assert "model.layers.1.mlp" in ran
    assert not {"model.layers.2.mlp", "model.norm", "lm_head"} & set(ran)


def test_passes_at_once_on_one_model_do_not_disturb_each_other() -> None:
    model, shared = tiny_model("gemma3_text"), tiny_model("llama")
    twin = type(shared)(shared.config).eval()  # another model built from the same config object
    weights = torch.ones(3, 4)
    cases: list[tuple[Any, Tensor, tuple[int, int]]] = [
        (m, random_ids(TOKENS, seed), (20 + seed, 40))
        for seed, m in enumerate([model, shared, twin] * 2)
    ]
    alone = [token_scores(m, MarkedTokens(ids, span), Weighing(weights)) for m, ids, span in cases]
    plain = [m(input_ids=ids[None]).logits for m, ids, _ in cases]
    wrong: list[int] = []

    def work(index: int) -> None:
        m, ids, span = cases[index]
        for _ in range(8):
            with torch.no_grad():
                logits = m(input_ids=ids[None]).logits
            same = torch.allclose(logits, plain[index], atol=1e-4)
            scores = token_scores(m, MarkedTokens(ids, span), Weighing(weights))
            if not (same and torch.allclose(scores, alone[index], atol=1e-5)):
                wrong.append(index)

    at_once(work, len(cases))
    assert not wrong
    assert model.config._attn_implementation == shared.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", BYPASSING)
def test_models_that_bypass_the_interface_are_refused(family: str) -> None:
    with pytest.raises(UnsupportedModelError, match="attention interface"):
        attention_shape(tiny_model(family))
    with pytest.raises(UnsupportedModelError, match="attention interface"):
        check_capture(tiny_model(family))


def test_models_that_are_not_decoders_are_refused() -> None:
    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = AutoModel.from_config(AutoConfig.for_model("bert", intermediate_size=16, **small))
    with pytest.raises(UnsupportedModelError, match="later tokens"):
        attention_shape(encoder)
    both = AutoModel.from_config(
        AutoConfig.for_model("t5", vocab_size=64, d_model=16, d_ff=16, num_layers=1, num_heads=2)
    )
    with pytest.raises(UnsupportedModelError, match="encoder"):
        attention_shape(both)


def test_layers_that_differ_in_heads_are_refused() -> None:
    model = tiny_model("llama")
    attention = model.model.layers[1].self_attn
    other = tiny_model("llama", num_attention_heads=2).model.layers[1].self_attn
    other.config = attention.config
    model.model.layers[1].self_attn = other
    with pytest.raises(UnsupportedModelError, match=r"heads: \[2, 4\]"):
        attention_shape(model)


def test_shape_counts_attention_layers_and_finds_windows() -> None:
    hybrid = attention_shape(tiny_model("qwen3_next"))
    assert (hybrid.num_layers, hybrid.num_heads, hybrid.window) == (2, 4, None)
    assert attention_shape(tiny_model("mistral")).window == WINDOW
    assert attention_shape(tiny_model("llama4_text")).window == WINDOW
    assert attention_shape(tiny_model("qwen2_moe")).window is None


@pytest.mark.parametrize(
    ("target", "weights", "said"),
    [
        ((0, 3), torch.ones(3, 4), r"\(0, 3\) is not within tokens 1 to 10"),
        ((5, 11), torch.ones(3, 4), r"\(5, 11\)"),
        ((6, 5), torch.ones(3, 4), r"\(6, 5\)"),
        ((5, 6), torch.ones(4, 3), "3 layers × 4 heads"),
    ],
)
def test_ranges_and_weights_that_do_not_fit_are_refused(
    target: tuple[int, int], weights: Tensor, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        token_scores(tiny_model("llama"), MarkedTokens(range(10), target), Weighing(weights))


def test_source_ranges_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="source range"):
        source_features(tiny_model("llama"), MarkedTokens(range(10), (5, 6), [(8, 11)]), [(5, 6)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gemma3_text", "gpt_oss", "gpt2"])
def test_self_test_passes(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family, dtype=dtype)
    before = model.config._attn_implementation
    check_capture(model)
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "wrong"),
    [
        ("llama", lambda call: {"scaling": call.scaling * 2}),
        ("mistral", lambda call: {"mask": None}),
        ("gemma2", lambda call: {"softcap": None}),
        ("gpt_oss", lambda call: {"sinks": None}),
    ],
    ids=["scaling", "window", "softcap", "sinks"],
)
def test_self_test_finds_a_wrong_capture(
    family: str, wrong: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = AttentionCall._visible_rows
    monkeypatch.setattr(
        AttentionCall,
        "_visible_rows",
        lambda call, start, end: right(replace(call, **wrong(call)), start, end),
    )
    with pytest.raises(CaptureMismatchError, match="differs from eager attention by"):
        check_capture(tiny_model(family, dtype=dtype))


def test_self_test_tolerance_can_be_set() -> None:
    error = check_capture(tiny_model("llama"))
    assert 0 < error < 1e-5
    with pytest.raises(CaptureMismatchError, match="more than 1e-12"):
        check_capture(tiny_model("llama"), tolerance=1e-12)


# 16 layers × 16 heads × 512 targets × 2,048 tokens × 4 bytes = 1.1 GB of weights. One layer's rows
# alone take 67 MB, and computing them at once two or three times as much. The process may grow by
# 100 MB beyond what it holds when the model is loaded and warm.
LONG_CONTEXT = """
import resource
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from at2.model.attention import source_features, token_scores
from at2.model.tokens import MarkedTokens
from at2.model.weighing import Weighing
from at2.ranges import TokenRange

LAYERS, HEADS, TARGETS, TOKENS = 16, 16, 512, 2048
GROWTH = 96 * 2**20
torch.set_num_threads(1)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, num_key_value_heads=4,
)).eval()
ids = torch.arange(TOKENS) % 64
span = (TOKENS - TARGETS, TOKENS)
weights = torch.full((LAYERS, HEADS), 1 / (LAYERS * HEADS))
token_scores(model, MarkedTokens(ids[:64], (32, 64)), Weighing(weights))
with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + GROWTH, held + GROWTH))
if sys.argv[1] == "everything":
    torch.zeros(LAYERS, HEADS, TARGETS, TOKENS)
else:
    row_bytes = int(sys.argv[1])
    scores = token_scores(model, MarkedTokens(ids, span), Weighing(weights), row_bytes=row_bytes)
    assert torch.allclose(scores.sum(1), torch.ones(TARGETS), atol=1e-4)
    halves = [(0, TOKENS // 2), (TOKENS // 2, TOKENS)]
    tokens = MarkedTokens(ids, span, halves)
    features = source_features(model, tokens, [span], row_bytes=row_bytes)
    assert torch.allclose(features.sum(1), torch.ones(1, LAYERS * HEADS), atol=1e-4)
print("fits")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize(
    ("what", "fits"),
    [(str(32 * 2**20), True), (str(2**40), False), ("everything", False)],
    ids=["blocks", "whole layers", "everything"],
)
def test_long_contexts_fit_only_because_rows_are_reduced_in_blocks(what: str, fits: bool) -> None:
    assert fits_memory(LONG_CONTEXT, what) == fits
