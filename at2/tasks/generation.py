"""Responses to a batch of prompts, as ids. Knows models and ids; nothing of text or sources."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from at2.prompts import context_length

DEFAULT_GENERATE_KWARGS: Mapping[str, Any] = {
    "max_new_tokens": 512,
    "do_sample": False,
    "top_p": None,
    "top_k": None,
    "temperature": None,
}
"""Arguments of `model.generate`: greedy, up to 512 tokens."""


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

    Args:
        model: a causal language model.
        prompts: ids of each prompt.
        visible: per prompt and token 1, or 0 where the token is hidden.
        generate_kwargs: arguments of `model.generate`; what would not fit the model is not asked
            for.

    Returns:
        Ids of each response, up to and with its end-of-sequence token.
    """
    width = max(map(len, prompts))
    kwargs = dict(generate_kwargs)
    limit = context_length(model)
    if limit is not None and kwargs.get("max_new_tokens") is not None:
        kwargs["max_new_tokens"] = min(kwargs["max_new_tokens"], limit - width)
    eos = end_ids(model, generate_kwargs)
    pad = kwargs.setdefault("pad_token_id", min(eos, default=0))
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
