"""How the next token is chosen. Knows logits; nothing of models or requests' text.

Greedy, or drawn from the `top_p` most likely part of the distribution at a temperature. A draw
depends on the request's seed and the token's position only, so a seeded reply repeats whatever else
the server is doing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to decode.

    Attributes:
        max_new_tokens: the most tokens of the response; by default what the engine chooses.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: share of the probability that is drawn from, the likeliest tokens first.
        seed: makes draws repeatable; chosen by the engine if there is none.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True)
class Draw:
    """One token to be drawn: row of the logits, settings, and a number in [0, 1)."""

    row: int
    temperature: float
    top_p: float
    number: float


def number_at(seed: int, position: int) -> float:
    """The number in [0, 1) that decides the token at a position, for a seed.

    Philox is a counter-based generator: any position's number costs the same and needs no others.
    """
    random = np.random.Generator(np.random.Philox(key=seed, counter=[position, 0, 0, 0]))
    return float(random.random())


def choose(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The tokens that are drawn, one for each draw.

    By inversion: tokens stand in the order of their probability, those beyond the first `top_p` are
    cut off, and the number says how far to go along the cumulated probability of the others.

    Args:
        logits: [rows, vocabulary].
        draws: which rows, and how.

    Returns:
        Token ids [draws].
    """
    device = logits.device

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    rows = logits[[draw.row for draw in draws]].float()  # [draws, vocabulary]
    probabilities = (rows / column([draw.temperature for draw in draws])).softmax(-1)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulated = ordered.cumsum(-1)
    # The likeliest token is always in: nothing stands before it.
    inside = cumulated - ordered < column([draw.top_p for draw in draws])
    kept = (ordered * inside).cumsum(-1)
    goal = column([draw.number for draw in draws]) * kept[:, -1:]
    last = inside.sum(-1, keepdim=True) - 1
    place = torch.minimum((kept <= goal).sum(-1, keepdim=True), last)
    return tokens.gather(-1, place).squeeze(-1)
