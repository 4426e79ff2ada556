"""Gradients equal those of the plain whole pass, for every family, and leave no trace."""

import threading
from typing import Any

import pytest
import torch

from at2.errors import InputError, UnsupportedModelError
from at2.model.gradients import embedding_gradients
from at2.model.tokens import MarkedTokens
from tests.helpers.models import FAMILIES, random_ids, tiny_model

NUM_TOKENS = 24
TARGETS = (17, 21)


def _plain_gradients(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings and gradients [target end - 1, width] from one ordinary training-like pass."""
    outputs: list[torch.Tensor] = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, __, output: outputs.append(output)
    )
    log_probs = model(input_ids=ids[None], use_cache=False).logits[0].log_softmax(-1)
    hook.remove()
    total = torch.stack([log_probs[t - 1, ids[t]] for t in range(*TARGETS)]).sum()
    (gradients,) = torch.autograd.grad(total, outputs)
    return outputs[0][0, : TARGETS[1] - 1].detach(), gradients[0, : TARGETS[1] - 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_a_plain_pass(family: str) -> None:
    model, ids = tiny_model(family), random_ids(NUM_TOKENS)
    found = embedding_gradients(model, MarkedTokens(ids, TARGETS))
    embeddings, gradients = _plain_gradients(model, ids)
    assert torch.equal(found.embeddings, embeddings)
    scale = gradients.abs().max()
    assert scale > 0 and (found.gradients - gradients).abs().max() <= 1e-5 * scale


def test_gradients_follow_finite_differences() -> None:
    model, ids, step = tiny_model("gpt2", dtype=torch.float64), random_ids(NUM_TOKENS), 1e-5
    found = embedding_gradients(model, MarkedTokens(ids.tolist(), TARGETS))
    direction = torch.randn(found.gradients.shape, generator=torch.Generator().manual_seed(0))
    values = []
    for sign in (1, -1):
        moved = (found.embeddings + sign * step * direction)[None]
        with torch.no_grad():
            log_probs = model(inputs_embeds=moved, use_cache=False).logits[0].log_softmax(-1)
        values.append(sum(log_probs[t - 1, ids[t]].item() for t in range(*TARGETS)))
    slope = (values[0] - values[1]) / (2 * step)
    assert (found.gradients * direction).sum().item() == pytest.approx(slope, rel=1e-6)


def test_logits_are_computed_for_as_many_targets_as_fit() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    rows: list[int] = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, args, __: rows.append(args[0].shape[-2])
    )
    at_once = embedding_gradients(model, MarkedTokens(ids, TARGETS))
    assert rows == [4]
    one_by_one = embedding_gradients(model, MarkedTokens(ids, TARGETS), logit_bytes=1)
    assert rows == [4, 1, 1, 1, 1]
    torch.testing.assert_close(one_by_one.gradients, at_once.gradients, atol=1e-4, rtol=1e-4)
    assert torch.equal(one_by_one.embeddings, at_once.embeddings)


def test_layers_are_computed_again_instead_of_kept() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    calls: list[int] = []
    for number, layer in enumerate(model.model.layers):
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: calls.append(number))
    embedding_gradients(model, MarkedTokens(ids, TARGETS))
    assert calls == [0, 1, 2, 2, 1, 0]


def test_no_gradients_of_weights_are_prepared() -> None:
    model, seen = tiny_model("llama"), []

    def look(layer: Any, *_: Any) -> None:
        seen.append(any(parameter.requires_grad for parameter in layer.parameters()))

    model.model.layers[1].register_forward_pre_hook(look)
    embedding_gradients(model, MarkedTokens(random_ids(NUM_TOKENS), TARGETS))
    assert seen == [False]


def test_dropout_stays_off() -> None:
    model, ids = tiny_model("opt", dropout=0.5), random_ids(NUM_TOKENS)
    first, second = (
        embedding_gradients(model, MarkedTokens(ids, TARGETS)).gradients for _ in range(2)
    )
    assert torch.equal(first, second)


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    model.lm_head.weight.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]

    def fail(*_: Any) -> None:
        raise RuntimeError("stop")

    if fails:
        hook = model.model.layers[1].mlp.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="stop"):
            embedding_gradients(model, MarkedTokens(ids, TARGETS))
        hook.remove()
    else:
        embedding_gradients(model, MarkedTokens(ids, TARGETS))
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert not any(module.training for module in model.modules())


def test_threads_take_turns_and_leave_the_model_as_it_was() -> None:
    model, ids = tiny_model("llama"), random_ids(NUM_TOKENS)
    expected = embedding_gradients(model, MarkedTokens(ids, TARGETS)).gradients
    found: dict[str, torch.Tensor] = {}
    second_is_in, first_is_done = threading.Event(), threading.Event()

    def second() -> None:
        found["second"] = embedding_gradients(model, MarkedTokens(ids, TARGETS)).gradients

    thread = threading.Thread(target=second)

    def meet(*_: Any) -> None:
        """The second comes in during the first, if it can, and stays until that is done."""
        if threading.current_thread() is thread:
            second_is_in.set()
            first_is_done.wait(60)
        elif not thread.is_alive():
            thread.start()
            second_is_in.wait(1)

    hook = model.model.layers[0].register_forward_pre_hook(meet)
    found["first"] = embedding_gradients(model, MarkedTokens(ids, TARGETS)).gradients
    first_is_done.set()
    thread.join()
    hook.remove()
    assert all(torch.equal(gradients, expected) for gradients in found.values()) and len(found) == 2
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_gradients_do_not_depend_on_what_was_read_before_nor_change_what_is_read_next() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 8.0}
    model = tiny_model("llama", rope_parameters=rope, max_position_embeddings=16)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    short, long = random_ids(NUM_TOKENS), random_ids(3 * NUM_TOKENS)
    expected = embedding_gradients(model, MarkedTokens(short, TARGETS)).gradients
    embedding_gradients(model, MarkedTokens(long, (60, 62)))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, buffers[name])
    with torch.no_grad():
        model(input_ids=long[None])  # frequencies are now those of a long sequence
    found = embedding_gradients(model, MarkedTokens(short, TARGETS)).gradients
    assert torch.equal(found, expected)


def test_half_precision_gives_finite_gradients_in_float32() -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    found = embedding_gradients(model, MarkedTokens(random_ids(NUM_TOKENS), TARGETS))
    assert found.gradients.dtype == found.embeddings.dtype == torch.float32
    assert found.gradients.isfinite().all() and found.gradients.any()


def test_kernels_without_a_derivative_are_refused() -> None:
    library = torch.library.Library("at2_tests", "FRAGMENT")  # as quantized weights have them
    library.define("same(Tensor x) -> Tensor")
    library.impl("same", lambda x: x.detach().clone(), "CPU")
    model = tiny_model("llama")
    model.model.layers[1].self_attn.register_forward_hook(
        lambda _, __, output: (torch.ops.at2_tests.same(output[0]), *output[1:])
    )
    with pytest.raises(UnsupportedModelError, match="no gradient"):
        embedding_gradients(model, MarkedTokens(random_ids(NUM_TOKENS), TARGETS))


@pytest.mark.parametrize("targets", [(0, 3), (5, 5), (6, 5), (5, NUM_TOKENS + 1)])
def test_a_target_that_cannot_be_predicted_is_refused(targets: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=str(targets[1])):
        embedding_gradients(tiny_model("llama"), MarkedTokens(random_ids(NUM_TOKENS), targets))
