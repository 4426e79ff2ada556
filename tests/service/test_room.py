"""Room in the cache: in turns, none lost, and long requests hold up short ones no longer than they
must."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack

from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.accounts import Accounts
from service.engine.room import Room

TOKENS = 800


class Asked:
    """A request for room, and whether it has it."""

    def __init__(self, room: Room, size: int, caller: str = "") -> None:
        self._block = ExitStack()
        self.size = size
        self._admitted = self._block.enter_context(room.reserve(caller, size, 0))

    @property
    def has_room(self) -> bool:
        return self._admitted.done()

    def leave(self) -> None:
        self._block.close()


Ask = Callable[..., Asked]


def on_a_loop(check: Callable[[Ask], None]) -> None:
    async def run() -> None:
        room, asked = Room(TOKENS, Accounts()), []

        def ask(size: int, caller: str = "") -> Asked:
            asked.append(Asked(room, size, caller))
            return asked[-1]

        try:
            check(ask)
        finally:
            for one in asked:
                one.leave()

    asyncio.run(run())


def test_what_fits_has_room_at_once_and_the_rest_when_others_leave() -> None:
    def check(ask: Ask) -> None:
        first, second, third = (ask(300) for _ in range(3))
        assert (first.has_room, second.has_room, third.has_room) == (True, True, False)
        first.leave()
        assert third.has_room

    on_a_loop(check)


def test_the_whole_room_may_be_taken_by_one() -> None:
    def check(ask: Ask) -> None:
        whole = ask(TOKENS)
        assert whole.has_room
        short = ask(1)
        assert not short.has_room
        whole.leave()
        assert short.has_room

    on_a_loop(check)


def test_short_ones_go_before_a_long_one_that_waits_for_another_long_one() -> None:
    def check(ask: Ask) -> None:
        reading = ask(500, "long")
        waiting = ask(500, "as long")
        short = [ask(40, f"caller {number}") for number in range(7)]
        assert reading.has_room and not waiting.has_room
        assert all(one.has_room for one in short)
        reading.leave()
        assert waiting.has_room

    on_a_loop(check)


def test_a_long_one_that_waits_for_short_ones_is_not_passed() -> None:
    def check(ask: Ask) -> None:
        writing = [ask(100, "short") for _ in range(7)]
        long = ask(500, "long")
        assert all(one.has_room for one in writing) and not long.has_room
        later = [ask(40, "short") for _ in range(3)]
        assert not any(one.has_room for one in later)
        for one in writing[:5]:
            one.leave()
        assert long.has_room

    on_a_loop(check)


def test_long_ones_leave_some_room_for_short_ones() -> None:
    def check(ask: Ask) -> None:
        long = [ask(100, f"caller {number}") for number in range(20)]
        assert sum(one.has_room for one in long) == 7
        short = [ask(25, f"short {number}") for number in range(4)]
        assert all(one.has_room for one in short)

    on_a_loop(check)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, TOKENS)) | st.integers(0, 9), max_size=40
    )
)
@settings(max_examples=100, deadline=None)
def test_there_is_never_too_much_in_it_and_everybody_has_room_in_the_end(
    steps: list[tuple[str, int] | int],
) -> None:
    def check(ask: Ask) -> None:
        asked: list[Asked] = []
        for step in steps:
            if isinstance(step, int):
                if step < len(asked):
                    asked.pop(step).leave()
            else:
                asked.append(ask(step[1], step[0]))
            assert sum(one.size for one in asked if one.has_room) <= TOKENS
        while asked:
            with_room = [one for one in asked if one.has_room]
            assert with_room
            for one in with_room:
                asked.remove(one)
                one.leave()

    on_a_loop(check)
