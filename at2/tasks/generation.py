"""Responses to a batch of prompts, as ids. Knows models and ids; nothing of text or sources."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from at2.errors import InputError
from at2.text.chat_template import context_length

DEFAULT_GENERATE_KWARGS: Mapping[str, Any] = {
    "max_new_tokens": 512,
    "do_sample": False,
    "top_p": None,
    "top_k": None,
    "temperature": None,
}
"""Arguments of `model.generate`: greedy, up to 512 tokens."""


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

    Padding takes room from a response: prompts so near the model's limit that it would be missed
    are batched only with others of their length.

    Args:
        model: a causal language model.
        prompts: ids of each prompt.
        visible: per prompt and token 1, or 0 where the token is hidden.
        generate_kwargs: arguments of `model.generate`; what would not fit the model is not asked
            for.

    Returns:
        Ids of each response, up to and with its end-of-sequence token.
    """
    limit, wanted = context_length(model), generate_kwargs.get("max_new_tokens")
    groups: dict[int | None, list[int]] = {}  # prompts by the room for their responses
    for number, ids in enumerate(prompts):
        room = wanted if wanted is None or limit is None else min(wanted, limit - len(ids))
        groups.setdefault(room, []).append(number)
    responses: dict[int, list[int]] = {}
    for room, numbers in groups.items():
        kwargs = dict(generate_kwargs)
        if room is not None:
            kwargs["max_new_tokens"] = room
        found = _in_one_batch(
            model, [prompts[i] for i in numbers], [visible[i] for i in numbers], kwargs
        )
        responses |= zip(numbers, found, strict=True)
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
    with torch.no_grad():
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor(masks, device=model.device),
            **kwargs,
        )  # [prompts, width + new]
    responses = []
    for row in output[:, width:].tolist():
        end = next((i + 1 for i, token_id in enumerate(row) if token_id in eos), len(row))
        responses.append(row[:end])
    return responses
