"""Tokens are drawn as a slow, plain computation says, and a number decides each draw alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.engine.sampling import Draw, choose, number_at

_LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)


def _slow(logits: list[float], temperature: float, top_p: float, number: float) -> set[int]:
    """The tokens that may be drawn: one, or two where the number is at the border of both."""
    top = max(logits)
    weights = [math.exp((value - top) / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda token: (-weights[token], token))
    kept, mass = [], 0.0
    for token in order:
        if kept and mass / sum(weights) >= top_p:
            break
        kept.append(token)
        mass += weights[token]
    if top_p >= 1:
        kept.sort()  # all of them, as they stand in the vocabulary
    drawn = set()
    for shifted in (number - 1e-5, number, number + 1e-5):
        goal, position = min(max(shifted, 0.0), 1.0) * mass, 0.0
        for token in kept:
            position += weights[token]
            if position > goal:
                break
        drawn.add(token)
    return drawn


@given(
    _LOGITS,
    st.sampled_from([0.2, 1.0, 3.0]),
    st.sampled_from([0.05, 0.5, 0.85, 1.0]),
    st.floats(0, 1, exclude_max=True),
)
def test_a_draw_is_that_of_the_plain_computation(
    logits: list[float], temperature: float, top_p: float, number: float
) -> None:
    (token,) = choose(torch.tensor([logits]), [Draw(0, temperature, top_p, number)]).tolist()
    # near a border of top_p, rounding decides whether one more token is in
    near = (top_p,) if top_p == 1 else (top_p - 1e-5, top_p, top_p + 1e-5)
    allowed = set().union(*(_slow(logits, temperature, p, number) for p in near))
    assert token in allowed


def test_each_row_is_drawn_by_its_own_settings() -> None:
    logits = torch.tensor([[0.0, 5.0, 1.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.1]])
    # a tiny top_p leaves the best token; a huge temperature makes the last in order as likely
    draws = [Draw(2, 1.0, 1e-9, 0.99), Draw(0, 1000.0, 1.0, 0.999), Draw(0, 1000.0, 0.99, 0.999)]
    assert choose(logits, draws).tolist() == [2, 2, 0]


@pytest.mark.parametrize("top_p", [0.999, 1.0])
def test_a_number_that_is_rounded_to_one_draws_a_token_that_can_be(top_p: float) -> None:
    logits = torch.tensor([[0.0, 1.0, 0.5, -torch.inf]])
    assert choose(logits, [Draw(0, 1.0, top_p, 1 - 1e-12)]).item() in (0, 2)


@pytest.mark.parametrize("temperature", [1e-300, 1e-46, 1e-40, 1e-12])
@pytest.mark.parametrize("top_p", [0.5, 1.0])
def test_next_to_no_temperature_draws_the_best_token(temperature: float, top_p: float) -> None:
    logits = torch.tensor([[30.0, -torch.inf, 31.0, 30.9]])
    for number in (0.0, 0.5, 1 - 1e-12):
        assert choose(logits, [Draw(0, temperature, top_p, number)]).item() == 2


@pytest.mark.parametrize("top_p", [0.9999, 1.0])
def test_draws_follow_the_distribution(top_p: float) -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0, -9.0]])
    numbers = [number_at(7, position) for position in range(4000)]
    drawn = choose(
        logits.expand(len(numbers), -1),
        [Draw(row, 1.0, top_p, number) for row, number in enumerate(numbers)],
    )
    shares = torch.bincount(drawn, minlength=4) / len(numbers)
    assert shares.tolist() == pytest.approx(logits[0].softmax(0).tolist(), abs=0.03)


@given(st.integers(0, 2**63 - 1), st.integers(0, 100_000))
def test_a_number_belongs_to_its_seed_and_position(seed: int, position: int) -> None:
    number = number_at(seed, position)
    assert 0 <= number < 1
    assert number == number_at(seed, position)
    assert number != number_at(seed, position + 1)
    assert number != number_at(seed ^ 1, position)
