"""How many tokens a model takes."""

import gc
import weakref
from typing import Any

import pytest

from at2.errors import InputError, PromptTooLongError
from at2.model.positions import check_length, context_length, set_context_length
from tests.helpers.models import tiny_model


def with_rope(family: str = "llama", limit: int = 512, **rope: Any) -> Any:
    rope = {"rope_theta": 10000.0} | rope
    return tiny_model(family, max_position_embeddings=limit, rope_parameters=rope)


def test_the_limit_is_the_one_that_is_meant() -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0}
    assert context_length(tiny_model("llama")) == 512
    assert context_length(tiny_model("gpt2")) == 512
    # As Qwen says to switch YaRN on, with the lengths of Qwen 3 and of Qwen 2.5, scaled down.
    assert context_length(with_rope(limit=40, original_max_position_embeddings=32, **yarn)) == 128
    assert context_length(with_rope(limit=32, **yarn)) == 128
    # As gpt-oss and DeepSeek have it: the config names the length that YaRN leads to.
    assert context_length(with_rope(limit=128, original_max_position_embeddings=32, **yarn)) == 128
    assert context_length(with_rope(limit=32, rope_type="dynamic", factor=2.5)) == 80
    # What the config names is meant to be read with these.
    assert context_length(with_rope(limit=128, rope_type="linear", factor=8.0)) == 128


def test_yarn_of_one_kind_of_layers_counts() -> None:
    model = tiny_model(
        "olmo3",
        max_position_embeddings=32,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 32,
            },
        },
    )
    assert context_length(model) == 256


def test_the_limit_can_be_set() -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    set_context_length(model, 1000)
    check_length(model, 600, 400)
    with pytest.raises(PromptTooLongError, match="takes 1000 in all"):
        check_length(model, 601, 400)
    set_context_length(model, 100)
    assert context_length(model) == 100 and context_length(other) == 512

    learned = tiny_model("gpt2")
    set_context_length(learned, 512)
    with pytest.raises(InputError, match="positions for 512 tokens, not for 513"):
        set_context_length(learned, 513)
    with pytest.raises(InputError, match="none"):
        set_context_length(model, 0)

    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
