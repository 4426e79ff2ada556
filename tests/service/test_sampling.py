"""Tokens are drawn as a slow, plain computation says, and a key decides each draw alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.sampling import Draw, choose, key_at, waiting_times

_LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)
_KEYS = st.integers(0, 2**64 - 1)


def _slow(logits: list[float], temperature: float, top_p: float, key: int) -> set[int]:
    """The tokens that may be drawn: one, or two where both are there at nearly the same time."""
    top = max(logits)
    weights = [math.exp((value - top) / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda token: (-weights[token], token))
    kept, mass = [], 0.0
    for token in order:
        if kept and mass / sum(weights) >= top_p:
            break
        kept.append(token)
        mass += weights[token]
    times = waiting_times(key, len(logits)).tolist()
    arrivals = {token: times[token] / max(weights[token], 1e-300) for token in kept}
    first = min(arrivals.values())
    return {token for token, arrival in arrivals.items() if arrival <= first * (1 + 1e-4)}


@given(_LOGITS, st.sampled_from([0.2, 1.0, 3.0]), st.sampled_from([0.05, 0.5, 0.85, 1.0]), _KEYS)
def test_a_draw_is_that_of_the_plain_computation(
    logits: list[float], temperature: float, top_p: float, key: int
) -> None:
    (token,) = choose(torch.tensor([logits]), [Draw(0, temperature, top_p, key)]).tolist()
    # near a border of top_p, rounding decides whether one more token is in
    near = (top_p,) if top_p == 1 else (top_p - 1e-5, top_p, top_p + 1e-5)
    allowed = set().union(*(_slow(logits, temperature, p, key) for p in near))
    assert token in allowed


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_rounding_of_logits_does_not_change_a_draw(top_p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 4 * torch.randn(200, 20_000, generator=generator)
    rounded = logits + 1e-5 * torch.randn(logits.shape, generator=generator)
    draws = [Draw(row, 2.0, top_p, key_at(7, row)) for row in range(len(logits))]
    assert choose(logits, draws).tolist() == choose(rounded, draws).tolist()


def test_each_row_is_drawn_by_its_own_settings() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.1]])
    # a tiny top_p leaves the best token; in the cold no other has a chance
    for key in range(20):
        draws = [Draw(2, 1.0, 1e-9, key), Draw(1, 0.1, 1.0, key), Draw(0, 0.1, 0.9, key)]
        assert choose(logits, draws).tolist() == [2, 0, 1]


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-40, 1e-12])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_next_to_no_temperature_draws_the_best_token(temperature: float, top_p: float) -> None:
    logits = torch.tensor([[30.0, -torch.inf, 31.0, 30.9]])
    for key in range(20):
        assert choose(logits, [Draw(0, temperature, top_p, key)]).item() == 2


def test_what_cannot_be_is_never_drawn() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0]])
    assert {choose(logits, [Draw(0, 1e9, 1.0, key)]).item() for key in range(50)} == {0, 2}


@pytest.mark.parametrize("top_p", [0.9999, 1.0])
def test_draws_follow_the_distribution(top_p: float) -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, -9.0]])
    count = 4000
    draws = [Draw(row, 1.0, top_p, key_at(7, row)) for row in range(count)]
    shares = torch.bincount(choose(logits.expand(count, -1), draws), minlength=4) / count
    assert shares.tolist() == pytest.approx(logits[0].softmax(0).tolist(), abs=0.03)


@given(_KEYS)
def test_times_to_wait_are_above_zero_and_repeat(key: int) -> None:
    times = waiting_times(key, 100)
    assert times.min() > 0 and times.max() < 100
    assert (
        times.tolist() == waiting_times(key, 100).tolist() == waiting_times(key, 200)[:100].tolist()
    )


@given(st.integers(0, 2**63 - 1), st.integers(0, 100_000))
def test_a_key_belongs_to_its_seed_and_position(seed: int, position: int) -> None:
    key = key_at(seed, position)
    assert 0 <= key < 2**64
    assert key == key_at(seed, position)
    assert key != key_at(seed, position + 1)
    assert key != key_at(seed ^ 1, position)
