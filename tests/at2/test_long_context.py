"""Long contexts: windowed attention in blocks equals eager attention, within bounded memory."""

from pathlib import Path
from typing import Any

import pytest
import torch

from at2.errors import ModelError
from at2.model import capture
from at2.model.attention import attention_shape, check_capture, source_features, token_scores
from at2.model.local_masks import LocalMask
from at2.model.tokens import MarkedTokens
from at2.model.weighing import Weighing
from tests.helpers.models import WINDOW, random_ids, tiny_model
from tests.helpers.passes import fits_memory

TOKENS = 5 * WINDOW + 3
WINDOWED = [
    "cohere2",
    "exaone4",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "llama4_text",
    "mistral",
    "olmo3",
]


def eager_attention(family: str, ids: torch.Tensor) -> torch.Tensor:
    """[layers, heads, tokens, tokens] of an untouched copy of the model."""
    model = tiny_model(family)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(input_ids=ids[None], output_attentions=True, use_cache=False)
    return torch.cat(list(output.attentions)).float()


@pytest.fixture
def masks_made(monkeypatch: pytest.MonkeyPatch) -> list[LocalMask]:
    """The masks that are made row by row while the test runs."""
    made: list[LocalMask] = []

    def make(*args: Any, **kwargs: Any) -> LocalMask | None:
        mask = original(*args, **kwargs)
        if mask is not None:
            made.append(mask)
        return mask

    original = capture._local_mask
    monkeypatch.setattr(capture, "_local_mask", make)
    return made


@pytest.mark.parametrize("family", WINDOWED)
def test_windows_in_blocks_equal_eager_attention(family: str, masks_made: list[LocalMask]) -> None:
    ids = random_ids(TOKENS)
    expected = eager_attention(family, ids)
    model = tiny_model(family)
    attention_shape(model)
    masks_made.clear()

    targets = [(t, t + 1) for t in range(1, TOKENS)]
    sources = [(t, t + 1) for t in range(TOKENS)]
    features = source_features(model, MarkedTokens(ids, (1, len(ids)), sources), targets)

    assert masks_made and all(len(list(mask.blocks())) > 5 for mask in masks_made)
    weights = features.view(len(targets), TOKENS, *expected.shape[:2]).permute(2, 3, 0, 1)
    torch.testing.assert_close(weights, expected[:, :, : TOKENS - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", [WINDOW - 1, WINDOW, WINDOW + 1, 2 * WINDOW])
def test_lengths_around_the_window_are_right(tokens: int) -> None:
    ids = random_ids(tokens)
    expected = eager_attention("mistral", ids).mean((0, 1))
    weights = torch.full((3, 4), 1 / 12)
    scores = token_scores(tiny_model("mistral"), MarkedTokens(ids, (1, tokens)), Weighing(weights))
    torch.testing.assert_close(scores, expected[: tokens - 1, :tokens], rtol=0, atol=1e-5)


def test_a_model_that_computes_with_its_masks_gets_whole_ones(masks_made: list[LocalMask]) -> None:
    def copy_mask(_: Any, args: Any, kwargs: Any) -> Any:
        mask = kwargs["attention_mask"]
        return args, kwargs | {"attention_mask": None if mask is None else mask.clone()}

    ids = random_ids(TOKENS)
    expected = token_scores(
        tiny_model("mistral"), MarkedTokens(ids, (40, 60)), Weighing(torch.ones(3, 4))
    )
    model = tiny_model("mistral")
    model.model.layers[1].self_attn.register_forward_pre_hook(copy_mask, with_kwargs=True)
    attention_shape(model)
    masks_made.clear()
    scores = token_scores(model, MarkedTokens(ids, (40, 60)), Weighing(torch.ones(3, 4)))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    assert not masks_made
    assert check_capture(model) < 1e-5


def test_a_mask_that_is_computed_with_says_so() -> None:
    mask = LocalMask(lambda *_: torch.ones(1), 4, 10, torch.device("cpu"))
    assert mask.shape == (1, 1, 10, 10) and "window=4" in repr(mask)
    for misuse in (lambda: mask + 1, lambda: mask[..., :3], lambda: mask.float(), mask.clone):
        with pytest.raises(ModelError, match="computes with its attention mask"):
            misuse()


def test_a_mask_that_sees_beyond_its_window_is_built_whole() -> None:
    def sees_all(start: int, end: int, low: int) -> torch.Tensor:
        return torch.ones(1, 1, end - start, end - low, dtype=torch.bool)

    assert not LocalMask(sees_all, 4, 10, torch.device("cpu")).stays_within_window()


# One mask of 12,288² booleans takes 144 MiB, and the kernel would turn it into 576 MiB of floats.
SLIDING = """
import resource
import sys

import torch
from transformers import MistralConfig, MistralForCausalLM

from at2.model import capture
from at2.model.attention import token_scores
from at2.model.tokens import MarkedTokens
from at2.model.weighing import Weighing

TOKENS, TARGETS = 12288, 64
GROWTH = 128 * 2**20
torch.set_num_threads(1)
model = MistralForCausalLM(MistralConfig(
    vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, sliding_window=512,
    max_position_embeddings=TOKENS,
)).eval()
ids = torch.arange(TOKENS) % 64
weights = torch.full((2, 2), 1 / 4)
token_scores(model, MarkedTokens(ids[:1024], (1000, 1024)), Weighing(weights))
if sys.argv[1] == "whole":
    capture._leave_masks_alone[model] = False
with open("/proc/self/statm") as file:
    held = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + GROWTH, held + GROWTH))
tokens = MarkedTokens(ids, (TOKENS - TARGETS, TOKENS))
scores = token_scores(model, tokens, Weighing(weights), row_bytes=32 * 2**20)
assert torch.allclose(scores.sum(1), torch.ones(TARGETS), atol=1e-4)
print("fits")
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize(("masks", "fits"), [("in blocks", True), ("whole", False)])
def test_long_windowed_contexts_fit_only_because_masks_are_in_blocks(
    masks: str, fits: bool
) -> None:
    assert fits_memory(SLIDING, masks) == fits
