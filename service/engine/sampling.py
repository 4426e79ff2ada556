"""How the next token is chosen. Knows logits; nothing of models or requests' text.

Greedy, or drawn from the `top_p` most likely part of the distribution at a temperature. A draw
depends on the request's seed and the token's position only, so a seeded reply repeats whatever else
the server is doing.
"""

import hashlib
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NUMBER_BITS = 53
"""Random bits of a number in [0, 1): as many as a float holds."""

_LOWEST_TEMPERATURE = 1e-6
"""Colder draws are the same: all but the best logits have no chance left."""


@dataclass(frozen=True)
class Sampling:
    """How to decode.

    Attributes:
        max_new_tokens: the most tokens of the response; by default what the engine chooses.
        temperature: 0 is greedy; otherwise logits are divided by it.
        top_p: share of the probability that is drawn from, the likeliest tokens first.
        seed: makes draws repeatable; chosen by the engine if there is none.
        stop: texts before which the response ends. Which ids make them is not known here: they are
            looked for where ids become text.
    """

    max_new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draw:
    """One token to be drawn: row of the logits, settings, and a number in [0, 1)."""

    row: int
    temperature: float
    top_p: float
    number: float


def number_at(seed: int, position: int) -> float:
    """The number in [0, 1) that decides the token at a position, for a seed.

    A hash of both: any position's number costs the same, a few microseconds, and needs no others.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    return math.ldexp(int.from_bytes(digest, "little") >> (64 - _NUMBER_BITS), -_NUMBER_BITS)


def choose(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The tokens that are drawn, one for each draw.

    By inversion: the number says how far to go along the cumulated probability of the tokens that
    may be drawn. Where all may (`top_p` 1) they stand as in the vocabulary; otherwise in the order
    of their probability, which takes a sort.

    Args:
        logits: [rows, vocabulary].
        draws: which rows, and how.

    Returns:
        Token ids [draws].
    """
    chosen = torch.empty(len(draws), dtype=torch.long, device=logits.device)
    for choose_some, some in (
        (_of_all, [place for place, draw in enumerate(draws) if draw.top_p >= 1]),
        (_of_the_likeliest, [place for place, draw in enumerate(draws) if draw.top_p < 1]),
    ):
        if some:
            chosen[some] = choose_some(logits, [draws[place] for place in some])
    return chosen


def _of_all(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    return _invert(_probabilities(logits, draws), draws)[:, 0]


def _of_the_likeliest(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    ordered, tokens = _probabilities(logits, draws).sort(dim=-1, descending=True, stable=True)
    # The likeliest token is always in: nothing stands before it.
    inside = ordered.cumsum(-1) - ordered < _column([draw.top_p for draw in draws], logits)
    return tokens.gather(-1, _invert(ordered * inside, draws))[:, 0]


def _probabilities(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """[draws, vocabulary], at each draw's temperature."""
    rows = logits[[draw.row for draw in draws]].float()
    # The best logit is 0 and stays it, however small what it is divided by.
    below = rows - rows.amax(-1, keepdim=True)
    temperatures = _column([draw.temperature for draw in draws], logits)
    return (below / temperatures.clamp_min(_LOWEST_TEMPERATURE)).softmax(-1)


def _invert(weights: Tensor, draws: Sequence[Draw]) -> Tensor:
    """Where along the weights [draws, tokens] the numbers fall, [draws, 1]."""
    cumulated = weights.cumsum(-1)
    total = cumulated[:, -1:]
    goal = _column([draw.number for draw in draws], weights) * total
    # A number that is rounded to 1 falls on the last token that has any weight.
    last = (cumulated < total).sum(-1, keepdim=True)
    return torch.minimum((cumulated <= goal).sum(-1, keepdim=True), last)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]
