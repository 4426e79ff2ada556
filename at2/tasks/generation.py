"""Responses to a batch of prompts, as ids. Knows models and ids; nothing of text or sources."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from at2.errors import InputError
from at2.model.capture import input_device
from at2.model.hiding import attention_for_hiding, check_hides, hides, needs_positions
from at2.model.positions import context_length, frequencies
from at2.model.twin import twin_for_pass

DEFAULT_GENERATE_KWARGS: Mapping[str, Any] = {
    "max_new_tokens": 512,
    "do_sample": False,
    "top_p": None,
    "top_k": None,
    "temperature": None,
}
"""Arguments of `model.generate`: greedy, up to 512 tokens."""

_OTHER_STOPS = ("stop_strings", "stopping_criteria")
"""Arguments that end a response without a token that says so."""

_ENDLESS = 2**31
"""The length of a sequence whose response has no limit."""


def check_generate_kwargs(generate_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `generate_kwargs` if what they make of a prompt is the ids of one response.

    Raises:
        InputError: it is not.
    """
    if generate_kwargs.get("return_dict_in_generate"):
        raise InputError(
            "generate_kwargs has return_dict_in_generate=True, but responses are plain ids",
            param="generate_kwargs",
        )
    count = generate_kwargs.get("num_return_sequences")
    if count not in (None, 1):
        raise InputError(
            f"generate_kwargs has num_return_sequences={count!r}, but a task has 1 response",
            param="generate_kwargs",
        )
    return dict(generate_kwargs)


def end_ids(model: Any, generate_kwargs: Mapping[str, Any]) -> frozenset[int]:
    """The ids that end a response."""
    eos = generate_kwargs.get("eos_token_id")
    if eos is None:
        eos = getattr(model.generation_config, "eos_token_id", None)
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)


def generate_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    visible: Sequence[Sequence[int]],
    generate_kwargs: Mapping[str, Any],
) -> list[list[int]]:
    """Respond to prompts in one batch, left-padded.

    A response does not depend on the other prompts. Padding takes room from a response: prompts so
    near the model's limit that it would be missed are batched only with others of their length. So
    are those whose rotary frequencies change with their length, and all prompts of a model that
    cannot hide padding. Where something else than a token ends responses, each is written alone:
    padding behind its end could not be told from it. Hidden tokens are hidden as in ablations: the
    others keep their positions.

    Args:
        model: a causal language model.
        prompts: ids of each prompt.
        visible: per prompt and token 1, or 0 where the token is hidden.
        generate_kwargs: arguments of `model.generate`; what would not fit the model is not asked
            for.

    Returns:
        Ids of each response, up to and with its end-of-sequence token.

    Raises:
        UnsupportedModelError: tokens are hidden, and the model cannot do that.
    """
    limit, wanted = context_length(model), generate_kwargs.get("max_new_tokens")
    leaks = len({len(ids) for ids in prompts}) > 1 and not hides(model)
    alone = any(generate_kwargs.get(name) for name in _OTHER_STOPS)
    groups: dict[tuple[int | None, Any], list[int]] = {}  # by room for a response, and company
    for number, ids in enumerate(prompts):
        room = wanted if wanted is None or limit is None else min(wanted, limit - len(ids))
        last = _ENDLESS if room is None else len(ids) + room
        company: Any = frequencies(model, len(ids))
        if leaks or frequencies(model, last) != company:
            company = len(ids)
        if alone:
            company = number
        groups.setdefault((room, company), []).append(number)
    responses: dict[int, list[int]] = {}
    for (room, _), numbers in groups.items():
        kwargs = dict(generate_kwargs)
        if room is not None:
            kwargs["max_new_tokens"] = room
        generated = _in_one_batch(
            model, [prompts[i] for i in numbers], [visible[i] for i in numbers], kwargs
        )
        responses |= zip(numbers, generated, strict=True)
    return [responses[number] for number in range(len(prompts))]


def _in_one_batch(
    model: Any,
    prompts: Sequence[Sequence[int]],
    visible: Sequence[Sequence[int]],
    kwargs: dict[str, Any],
) -> list[list[int]]:
    width = max(map(len, prompts))
    eos = end_ids(model, kwargs)
    kwargs = {"pad_token_id": min(eos, default=0), **kwargs}
    pad = kwargs["pad_token_id"]
    rows = [[pad] * (width - len(ids)) + list(ids) for ids in prompts]
    masks = [[0] * (width - len(row)) + list(row) for row in visible]
    inputs = {"input_ids": rows, "attention_mask": masks}
    holes = not all(map(all, visible))
    if holes:
        check_hides(model)
        if needs_positions(model):
            inputs["position_ids"] = [
                [0] * (width - len(ids)) + list(range(len(ids))) for ids in prompts
            ]
    device = input_device(model)
    tensors = {name: torch.tensor(values, device=device) for name, values in inputs.items()}
    # A twin has its first frequencies, whatever the model has read before.
    attention = attention_for_hiding(model) if holes else None
    with twin_for_pass(model, attention) as twin, torch.no_grad():
        output = twin.generate(**tensors, **kwargs)  # [prompts, width + new]
    responses = []
    for row in output[:, width:].tolist():
        end = next((i + 1 for i, token_id in enumerate(row) if token_id in eos), len(row))
        responses.append(row[:end])
    return responses
