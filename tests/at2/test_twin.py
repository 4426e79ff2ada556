"""A pass that looks at a model changes nothing that another pass of the model could see."""

import functools
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn

from at2.model.attention import attention_shape, check_capture, token_scores
from at2.model.tokens import MarkedTokens
from at2.model.twin import same_weights, twin_for_pass
from at2.model.weighing import Weighing
from tests.helpers.models import random_ids, tiny_model

TOKENS = 24
TARGET = (16, 22)
PASSES = 60


def eager(family: str, **settings: Any) -> Any:
    model = tiny_model(family, **settings)
    model.set_attn_implementation("eager")
    return model


def logits(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(input_ids=ids[None], use_cache=False).logits[0]
    return found


def scores(model: Any, ids: Tensor | None = None) -> Tensor:
    shape = attention_shape(model)
    weights = torch.linspace(-1, 1, shape.num_layers * shape.num_heads)
    ids = random_ids(TOKENS) if ids is None else ids
    return token_scores(
        model, MarkedTokens(ids, TARGET), Weighing(weights.view(shape.num_layers, shape.num_heads))
    )


def while_another_thread(does: Callable[[], Any], work: Callable[[], None]) -> None:
    """Run `work` as long as it takes, while `does` is repeated in another thread."""
    ended, failures = threading.Event(), []

    def repeat() -> None:
        try:
            while not ended.is_set():
                does()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        work()
    finally:
        ended.set()
        thread.join()
    assert not failures


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
def test_logits_of_an_eager_model_stay_exact_while_another_thread_captures(family: str) -> None:
    model, ids = eager(family), random_ids(TOKENS)
    expected, wanted = logits(model, ids), scores(model)

    def work() -> None:
        for _ in range(PASSES):
            assert torch.equal(logits(model, ids), expected)
            assert torch.equal(scores(model), wanted)

    while_another_thread(lambda: scores(model), work)
    assert model.config._attn_implementation == "eager"


def test_a_check_of_the_capture_disturbs_nobody_either() -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS)
    expected = logits(model, ids)

    def work() -> None:
        for _ in range(PASSES):
            assert torch.equal(logits(model, ids), expected)

    while_another_thread(lambda: check_capture(model), work)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_positions_of_a_short_sequence_stay_exact_while_a_long_one_is_captured(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0}
    family, settings = "llama", {"max_position_embeddings": 32}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
        family, settings = "phi3", {"original_max_position_embeddings": 32}
    model = eager(family, rope_parameters=rope, **settings)
    short, long = random_ids(TOKENS), random_ids(2 * 32)
    expected, wanted = logits(model, short), scores(model, short)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    scores(model, long)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])

    def work() -> None:
        for _ in range(PASSES):
            assert torch.equal(logits(model, short), expected)

    while_another_thread(lambda: scores(model, long), work)
    # Nor does a capture depend on what the model has read itself.
    logits(model, long)
    assert torch.equal(scores(model, short), wanted)


def test_what_training_did_is_seen() -> None:
    model = tiny_model("llama")
    before = scores(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(input_ids=random_ids(TOKENS)[None], labels=random_ids(TOKENS)[None]).loss.backward()
    optimizer.step()
    other = tiny_model("llama")
    other.load_state_dict(model.state_dict())
    assert torch.equal(scores(model), scores(other))
    assert not torch.equal(scores(model), before)


class Adapted(nn.Module):
    """A linear layer with an update of low rank, as LoRA has it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        result: Tensor = self.layer(hidden) + self.up(self.down(hidden))
        return result


def test_an_adapter_put_in_later_is_seen() -> None:
    model, merged = tiny_model("llama"), tiny_model("llama")
    before = scores(model)
    torch.manual_seed(0)
    attention = model.model.layers[1].self_attn
    attention.q_proj = adapter = Adapted(attention.q_proj)
    with torch.no_grad():
        merged.model.layers[1].self_attn.q_proj.weight += adapter.up.weight @ adapter.down.weight
    torch.testing.assert_close(scores(model), scores(merged), rtol=0, atol=1e-5)
    assert not torch.allclose(scores(model), before, atol=1e-3)


def test_a_lasting_twin_has_tensors_that_are_put_in_place_of_others() -> None:
    model = tiny_model("llama")
    twin = same_weights(model)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach() * 2)
    ids = random_ids(TOKENS)
    assert torch.equal(logits(twin, ids), logits(model, ids))


def test_hooks_and_methods_of_a_twin_are_its_own() -> None:
    model, ids = tiny_model("llama"), random_ids(TOKENS)
    expected = logits(model, ids)
    twin = same_weights(model)
    twin.lm_head.register_forward_hook(lambda *_: torch.zeros(1, TOKENS, 1))
    twin.model.layers[0].forward = lambda hidden, *_, **__: hidden
    assert not logits(twin, ids).any()
    assert torch.equal(logits(model, ids), expected)


def test_a_wrapped_forward_is_wrapped_around_the_twin() -> None:
    model = tiny_model("llama")
    wanted = scores(model)
    layer = model.model.layers[0]
    for module in (model, layer, layer.self_attn):
        module.forward = torch.inference_mode()(module.forward)
    layer.mlp.forward = functools.partial(layer.mlp.forward)
    assert torch.equal(scores(model), wanted)


def test_a_compiled_model_is_captured() -> None:
    model = tiny_model("llama")
    wanted = scores(model)
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(scores(compiled), wanted)
    model.compile(backend="eager")
    assert torch.equal(scores(model), wanted)


def test_no_model_is_kept_alive() -> None:
    model = tiny_model("llama")
    scores(model)
    with twin_for_pass(model, "eager"):
        pass
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("whole_layers", [False, True])
def test_offloaded_weights_are_loaded_for_the_twin_alone(whole_layers: bool) -> None:
    plain, ids = eager("llama"), random_ids(TOKENS)
    expected, wanted = logits(plain, ids), scores(plain)
    model = eager("llama")
    classes = ["LlamaAttention"] if whole_layers else None
    cpu_offload(model, torch.device("cpu"), preload_module_classes=classes)
    assert all(parameter.is_meta for parameter in model.parameters())

    for _ in range(2):
        assert torch.equal(scores(model), wanted)
        assert all(parameter.is_meta for parameter in model.parameters())
        assert torch.equal(logits(model, ids), expected)
    assert check_capture(model) < 1e-5

    def work() -> None:
        for _ in range(PASSES // 6):
            assert torch.equal(logits(model, ids), expected)

    while_another_thread(lambda: scores(model), work)
