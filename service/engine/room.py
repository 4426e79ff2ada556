"""Room in the cache of keys and values, given to generations in turns. Runs on the event loop only.

The batch takes what it is given in order of arrival, so who sends much would fill it. What does not
fit yet waits here instead, where whose turn it is depends on what each caller has had.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from service.engine.accounts import Accounts
from service.engine.turns import Turn, Turns

_SHARE_WRITTEN = 0.5
"""Of the new tokens that a request allows: for how many there has to be room before it begins. Most
responses end long before their limit, and the batch copes where they do not."""

_MUCH_SHORTER = 0.5
"""Of a request's size: how long another may be that goes before it out of turn."""

_SHORT = 1 / 16
"""Of all room: what a request may take to be a short one."""

_FOR_SHORT = 1 / 8
"""Of all room: what only short ones may take, if anybody has room."""


class Room:
    """Gives room in the cache to generations.

    Who does not fit waits until others are done, and nobody who comes after goes first; but where
    those that have room are long ones, the wait is long, and others that are much shorter may go
    first. They will be done when the long ones are.

    Args:
        tokens: that the cache holds.
        accounts: where it is written down how long each caller waited.
    """

    def __init__(self, tokens: int, accounts: Accounts) -> None:
        self._accounts = accounts
        self._tokens = float(tokens)
        self._turns = Turns()
        self._waiting: dict[Turn, asyncio.Future[None]] = {}
        self._taken: dict[Turn, float] = {}

    @property
    def waiting(self) -> int:
        """Generations that have no room yet."""
        return len(self._waiting)

    @contextmanager
    def reserve(
        self, caller: str, prompt_tokens: int, new_tokens: int
    ) -> "Iterator[asyncio.Future[None]]":
        """Ask for room for a generation that fits the cache: wait for the future, and leave the
        block when the room is no longer needed, or no longer wanted. Who gives up waiting may set
        an exception on it."""
        turn = self._turns.join(caller, prompt_tokens + new_tokens * _SHARE_WRITTEN)
        admitted = self._waiting[turn] = asyncio.get_running_loop().create_future()
        asked = time.perf_counter()

        def count(_: object) -> None:
            self._accounts.of(caller).waited += time.perf_counter() - asked

        admitted.add_done_callback(count)
        self._give()
        try:
            yield admitted
        finally:
            if not admitted.cancel() and not admitted.cancelled():
                admitted.exception()  # whoever set it was told; now nobody else asks
            self._waiting.pop(turn, None)
            self._taken.pop(turn, None)
            self._turns.leave(turn)
            self._give()

    def _give(self) -> None:
        """Give room to those whose turn it is, as long as it lasts.

        Where a request does not fit, only much shorter ones pass it; and none do, if all that it
        lacks is taken by such: they are done soon, and more of them would put it off.
        """
        may_pass = float("inf")  # the largest request that may go before those that do not fit
        while candidates := [turn for turn in self._waiting if turn.left <= may_pass]:
            turn = self._turns.first(candidates)
            taken = list(self._taken.values())
            if not self._fits(turn.left, taken):
                may_pass = turn.left * _MUCH_SHORTER
                if self._fits(turn.left, [size for size in taken if size > may_pass]):
                    return
                continue
            self._taken[turn] = turn.left
            self._turns.give(turn, turn.left)
            admitted = self._waiting.pop(turn)
            if not admitted.done():
                admitted.set_result(None)

    def _fits(self, size: float, taken: Sequence[float]) -> bool:
        """Whether there is room for a request beside others. What is reserved for short requests
        is no room for a long one."""
        short = self._tokens * _SHORT
        reserved = 0.0
        if taken and size > short:
            taken_by_short = sum(other for other in taken if other <= short)
            reserved = max(0.0, self._tokens * _FOR_SHORT - taken_by_short)
        return size + sum(taken) + reserved <= self._tokens
