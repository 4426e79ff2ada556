"""What hiding tokens is: the same in ablations and in generation, whatever the model, its kernel
and the sequences that share a pass."""

from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from numpy.typing import NDArray
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface

from at2.errors import UnsupportedModelError
from at2.model.ablation import Ablations, Method, ablated_logit_probs, ablated_logit_probs_of_many
from at2.model.hiding import hides
from at2.model.tokens import MarkedTokens
from at2.tasks.generation import generate_responses
from tests.helpers.models import FAMILIES, LEAKING, VOCABULARY, WINDOW, random_ids, tiny_model

ORIGINAL = 32
"""Tokens up to which the models of changing frequencies have their first ones."""

SOURCES = [(0, 6), (6, 10), (12, 18)]
MASKS = np.array([[True, True, True], [False, True, False], [True, False, True], [False] * 3])


def of_changing_frequencies(kind: str, **settings: Any) -> Any:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0}
    if kind == "longrope":
        rope |= {"short_factor": [1.0] * 4, "long_factor": [9.0, 7.0, 5.0, 3.0]}
        settings |= {"max_position_embeddings": 256, "original_max_position_embeddings": ORIGINAL}
        return tiny_model("phi3", rope_parameters=rope, **settings)
    settings["max_position_embeddings"] = ORIGINAL
    return tiny_model("llama", rope_parameters=rope, **settings)


def one_at_a_time(kind: str, case: Ablations, method: Method = "mask") -> NDArray[np.floating[Any]]:
    """Each mask alone, by the plain model as it is before its first sequence."""
    start, end = case.tokens.target_range
    ids, rows = case.tokens.ids[: end - 1], []
    for mask in np.asarray(case.masks):
        visible = torch.ones(len(ids), dtype=torch.long)
        for keep, (first, last) in zip(mask, case.tokens.source_ranges, strict=True):
            visible[first:last] = int(keep)
        if method == "remove":
            inputs = {"input_ids": ids[visible.bool()][None]}
        else:
            inputs = {"input_ids": ids[None], "attention_mask": visible[None]}
        with torch.no_grad():
            logits = of_changing_frequencies(kind)(**inputs).logits[0, start - end :]
        log_p = logits.double().log_softmax(-1)
        labels = case.tokens.ids[start:end, None]
        p = log_p.gather(1, labels)[:, 0]
        others = log_p.scatter(1, labels, -torch.inf).logsumexp(1)
        rows.append((p - others).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("method", ["mask", "remove"])
@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_an_ablation_does_not_depend_on_its_neighbours(kind: str, method: Method) -> None:
    model = of_changing_frequencies(kind)
    # Within, on both sides of the border, and beyond it by different numbers of tokens.
    cases = [
        Ablations(MarkedTokens(random_ids(total, seed=total), (20, total), SOURCES), MASKS)
        for total in (26, ORIGINAL + 1, ORIGINAL + 2, 44, 60)
    ]
    for order in (cases, cases[::-1]):
        together = ablated_logit_probs_of_many(model, order, method=method, token_budget=10_000)
        for found, case in zip(together, order, strict=True):
            expected = one_at_a_time(kind, case, method)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", ["longrope", "dynamic"])
def test_a_response_does_not_depend_on_its_neighbours(kind: str) -> None:
    model = of_changing_frequencies(kind)
    prompts = [random_ids(count, seed=count).tolist() for count in (60, 12, 20, 20, 30)]
    kwargs = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 2}
    alone = [
        of_changing_frequencies(kind)
        .generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), **kwargs)[0]
        .tolist()[len(prompt) :]
        for prompt in prompts
    ]
    everything = [[1] * len(prompt) for prompt in prompts]
    assert generate_responses(model, prompts, everything, kwargs) == alone


def _stand_in_mask(*, attention_mask: Tensor | None = None, **_: Any) -> Tensor | None:
    """As FlashAttention has it: which tokens there are, or None for all."""
    return None if attention_mask is None or attention_mask.all() else attention_mask


def _stand_in(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    sliding_window: int | None = None,
    position_ids: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What FlashAttention computes, without its kernel: tokens that are masked are cut out before
    windows are counted, and gaps in the positions of one sequence begin another one."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    output = torch.zeros_like(query)
    read, known = query.shape[2], key.shape[2]
    for row in range(len(query)):
        there = torch.ones(known, dtype=torch.bool)
        if attention_mask is not None:
            there = attention_mask[row].bool()
        asking, places = there[known - read :].nonzero()[:, 0], there.nonzero()[:, 0]
        q, k, v = query[row][:, asking], key[row][:, places], value[row][:, places]
        order = torch.arange(len(places))
        distance = order[-len(asking) :, None] - order[None]
        seen = distance >= 0
        if sliding_window is not None:
            seen &= distance < sliding_window
        if attention_mask is None and position_ids is not None and len(query) == 1 and read > 1:
            part = (position_ids[0].diff(prepend=position_ids[0, :1] - 1) != 1).cumsum(0)
            seen &= part[:, None] == part[None]
        weights = (q @ k.transpose(1, 2) * scaling).masked_fill(~seen, -torch.inf).softmax(-1)
        output[row][:, asking] = weights @ v
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register("flash_stand_in", _stand_in)
AttentionMaskInterface.register("flash_stand_in", _stand_in_mask)


@pytest.mark.parametrize("family", ["mistral", "llama"])
def test_flash_attention_hides_the_same_tokens(family: str) -> None:
    plain, flash = tiny_model(family), tiny_model(family)
    flash.config._attn_implementation_internal = "flash_stand_in"
    ids, target = random_ids(3 * WINDOW), (3 * WINDOW - 6, 3 * WINDOW)
    with torch.no_grad():
        torch.testing.assert_close(
            flash(input_ids=ids[None]).logits, plain(input_ids=ids[None]).logits, rtol=0, atol=1e-4
        )
    found = ablated_logit_probs(flash, MarkedTokens(ids, target, SOURCES), MASKS)
    np.testing.assert_allclose(
        found,
        ablated_logit_probs(plain, MarkedTokens(ids, target, SOURCES), MASKS),
        rtol=0,
        atol=1e-5,
    )
    # It is not what the kernel makes of a mask with holes.
    holes = torch.ones(1, len(ids), dtype=torch.long)
    holes[:, 30:36] = 0
    with torch.no_grad():
        slid = flash(input_ids=ids[None], attention_mask=holes).logits[0, -5:]
        right = plain(input_ids=ids[None], attention_mask=holes).logits[0, -5:]
    assert (not torch.allclose(slid, right, atol=1e-2)) == (family == "mistral")
    visible = holes[0].tolist()
    kwargs = {"max_new_tokens": 6, "do_sample": False}
    assert generate_responses(flash, [ids.tolist()], [visible], kwargs) == generate_responses(
        plain, [ids.tolist()], [visible], kwargs
    )


@pytest.mark.parametrize("family", LEAKING)
def test_a_model_that_cannot_hide_tokens_is_refused(family: str) -> None:
    model, ids = tiny_model(family), random_ids(40)
    tokens = MarkedTokens(ids, (30, 36), SOURCES)
    assert not hides(model)
    with pytest.raises(UnsupportedModelError, match="cannot hide tokens"):
        ablated_logit_probs(model, tokens, MASKS)
    with pytest.raises(UnsupportedModelError, match="cannot hide tokens"):
        generate_responses(model, [ids.tolist()], [[0] * 5 + [1] * 35], {"max_new_tokens": 2})
    # Nothing hidden and shorter texts are no matter of hiding.
    everything = np.ones((1, len(SOURCES)), dtype=bool)
    assert ablated_logit_probs(model, tokens, everything).shape == (1, 6)
    removed = ablated_logit_probs(model, tokens, MASKS, method="remove")
    assert np.isfinite(removed).all()


@pytest.mark.parametrize("family", LEAKING)
def test_padding_does_not_leak_into_responses(family: str) -> None:
    model = tiny_model(family)
    prompts = [random_ids(count, seed=count).tolist() for count in (20, 9, 9)]
    kwargs = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": 2}
    everything = [[1] * len(prompt) for prompt in prompts]
    together = generate_responses(model, prompts, everything, kwargs)
    assert together == [
        generate_responses(model, [prompt], [[1] * len(prompt)], kwargs)[0] for prompt in prompts
    ]


@pytest.mark.parametrize("family", [*FAMILIES])
def test_generation_hides_as_ablation_does(family: str) -> None:
    model, ids = tiny_model(family), random_ids(30)
    sources, visible = [(3, 9), (14, 20)], [1] * 30
    for first, last in sources:
        visible[first:last] = [0] * (last - first)
    kwargs = {"max_new_tokens": 2, "do_sample": False, "eos_token_id": None}
    (response,) = generate_responses(model, [ids.tolist()], [visible], kwargs)
    # Of all tokens, ablation finds the one that was chosen the most likely.
    for number in range(len(response)):
        before = torch.cat([ids, torch.tensor(response[:number], dtype=torch.long)])
        rivals = [
            Ablations(
                MarkedTokens(
                    torch.cat([before, torch.tensor([token])]),
                    (len(before), len(before) + 1),
                    sources,
                ),
                np.zeros((1, 2), dtype=bool),
            )
            for token in range(3, VOCABULARY)
        ]
        found = ablated_logit_probs_of_many(model, rivals, token_budget=8192)
        chosen = int(np.argmax([values[0, 0] for values in found])) + 3
        assert chosen == response[number] or response[number] < 3


@pytest.mark.parametrize("whole_layers", [False, True])
def test_offloaded_models_generate_and_hide(whole_layers: bool) -> None:
    plain, model = tiny_model("llama"), tiny_model("llama")
    classes = ["LlamaDecoderLayer"] if whole_layers else None
    cpu_offload(model, torch.device("cpu"), preload_module_classes=classes)
    assert model.get_input_embeddings().weight.is_meta
    ids, kwargs = random_ids(30).tolist(), {"max_new_tokens": 6, "do_sample": False}
    for visible in ([1] * 30, [1] * 4 + [0] * 8 + [1] * 18):
        assert generate_responses(model, [ids], [visible], kwargs) == generate_responses(
            plain, [ids], [visible], kwargs
        )
    np.testing.assert_allclose(
        ablated_logit_probs(model, MarkedTokens(ids, (24, 30), SOURCES), MASKS),
        ablated_logit_probs(plain, MarkedTokens(ids, (24, 30), SOURCES), MASKS),
        rtol=0,
        atol=1e-6,
    )
    assert all(parameter.is_meta for parameter in model.parameters())
