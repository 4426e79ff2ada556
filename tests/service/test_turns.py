"""Turns: equal shares between callers, and within one the longest wait for its size first."""

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.turns import Turn, Turns


def _serve(turns: Turns, waiting: list[Turn], step: float, steps: int) -> list[Turn]:
    """Who is given each step; who has had all leaves."""
    order = []
    for _ in range(steps):
        first = turns.first(waiting)
        order.append(first)
        whole = first.left <= step
        turns.give(first, step)
        if whole:
            turns.leave(first)
            waiting.remove(first)
        if not waiting:
            break
    return order


def test_two_callers_get_equal_shares_however_much_each_asks_for() -> None:
    turns = Turns()
    one = [turns.join("one", 100)]
    many = [turns.join("many", 5) for _ in range(50)]
    order = _serve(turns, one + many, 1, 60)
    for steps in (order[:20], order[:40], order):
        assert abs(sum(turn.caller == "one" for turn in steps) - len(steps) / 2) <= 1


def test_of_one_caller_the_short_ones_go_first() -> None:
    turns = Turns()
    sizes = [70.0, 3.0, 20.0, 1.0]
    waiting = [turns.join("one", size) for size in sizes]
    done = [turn.number for turn in _serve(turns, waiting, 100, 10)]
    assert done == [3, 1, 2, 0]


def test_of_one_caller_equal_ones_go_in_order_of_arrival() -> None:
    turns = Turns()
    waiting = [turns.join("one", 5.0) for _ in range(4)]
    assert [turn.number for turn in _serve(turns, waiting, 5, 10)] == [0, 1, 2, 3]


def test_a_long_work_is_not_passed_for_ever_by_short_ones_of_its_caller() -> None:
    turns = Turns()
    long = turns.join("one", 100)
    waiting = [long]
    steps = 0
    while long in waiting:
        waiting.append(turns.join("one", 1))  # with every step another one comes
        _serve(turns, waiting, 1, 1)
        steps += 1
        assert steps < 20_000
    assert long.had == 100


def test_nobody_saves_up_turns_by_not_asking_or_loses_what_they_had_by_leaving() -> None:
    turns = Turns()
    first = turns.join("early", 1000)
    for _ in range(50):
        turns.give(first, 1)
    late = turns.join("late", 1000)
    order = _serve(turns, [first, late], 1, 20)
    assert abs(sum(turn is late for turn in order) - 10) <= 1  # not the 50 that the other has had
    for _ in range(30):
        turns.give(late, 1)
    turns.leave(late)
    again = turns.join("late", 1000)
    order = _serve(turns, [first, again], 1, 20)
    assert all(turn is first for turn in order)


def test_callers_who_are_gone_are_forgotten() -> None:
    turns = Turns()
    for number in range(1000):
        turn = turns.join(f"caller {number}", 1)
        turns.give(turn, 1)
        turns.leave(turn)
    assert len(turns._had) <= 3


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), min_size=1, max_size=30))
@settings(max_examples=50, deadline=None)
def test_everything_is_done_in_the_end_and_nothing_twice(asked: list[tuple[str, int]]) -> None:
    turns = Turns()
    waiting = [turns.join(caller, size) for caller, size in asked]
    all_turns = list(waiting)
    _serve(turns, waiting, 1, sum(size for _, size in asked))
    assert not waiting
    assert [turn.had for turn in all_turns] == [float(size) for _, size in asked]
