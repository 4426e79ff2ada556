"""How the next token is chosen. Knows logits; nothing of models or requests' text.

Greedy, or drawn from the `top_p` most likely part of the distribution at a temperature. A draw
depends on the request's seed and the token's position only, so a seeded reply repeats whatever else
the server is doing.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
    """One token to be drawn: row of the logits, settings, and what decides."""

    row: int
    temperature: float
    top_p: float
    key: int


def key_at(seed: int, position: int) -> int:
    """What decides the token at a position, for a seed: 64 bits.

    A hash of both: any position's key costs the same, a few microseconds, and needs no others.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, position), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def waiting_times(key: int, count: int) -> NDArray[np.float32]:
    """Numbers above zero of the standard exponential distribution, [count]."""
    generator = np.random.Generator(np.random.Philox(key=key))
    found = generator.standard_exponential(count, dtype=np.float32)
    return np.maximum(found, np.finfo(np.float32).tiny, out=found)


def choose(logits: Tensor, draws: Sequence[Draw]) -> Tensor:
    """The tokens that are drawn, one for each draw.

    A race: each token that may be drawn waits for an exponential time, divided by its probability,
    and the first one is drawn (Gumbel-max). The first two are seldom close, so a draw is the same
    where logits differ by rounding, as they do between batches. Going along the cumulated
    probability would meet borders of tokens that are close to each other.

    Args:
        logits: [rows, vocabulary].
        draws: which rows, and how.

    Returns:
        Token ids [draws].
    """
    rows = logits[[draw.row for draw in draws]].float()
    # The best logit is 0 and stays it, however small what it is divided by.
    below = rows - rows.amax(-1, keepdim=True)
    temperatures = _column([draw.temperature for draw in draws], logits)
    log_weights = below / temperatures.clamp_min(_LOWEST_TEMPERATURE)
    for place, draw in enumerate(draws):
        if draw.top_p < 1:
            _leave_the_likeliest(log_weights[place], draw.top_p)
    logs = [np.log(waiting_times(draw.key, rows.shape[1])) for draw in draws]
    return (log_weights - torch.from_numpy(np.stack(logs)).to(rows.device)).argmax(-1)


def _leave_the_likeliest(log_weights: Tensor, top_p: float) -> None:
    """Take all tokens out, in place, but the likeliest that have `top_p` of the probability."""
    ordered, tokens = log_weights.softmax(-1).sort(descending=True, stable=True)
    # The likeliest token is always in: nothing stands before it.
    outside = ordered.cumsum(-1) - ordered >= top_p
    log_weights[tokens[outside]] = -torch.inf


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]
