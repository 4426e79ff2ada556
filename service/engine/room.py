"""Room in the cache of keys and values, given to generations in turns. Runs on the event loop only.

The batch takes what it is given in order of arrival, so who sends much would fill it. What does not
fit yet waits here instead, where whose turn it is depends on what each caller has had.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from service.engine.accounts import Accounts
from service.engine.turns import Turn, Turns

_SHARE_WRITTEN = 0.5
"""Of the new tokens that a request allows: for how many there has to be room before it begins. Most
responses end long before their limit, and the batch copes where they do not."""


class Room:
    """Gives room in the cache to generations.

    Args:
        tokens: that the cache holds.
        accounts: where it is written down how long each caller waited.
    """

    def __init__(self, tokens: int, accounts: Accounts) -> None:
        self._accounts = accounts
        self._free = float(tokens)
        self._turns = Turns()
        self._waiting: dict[Turn, asyncio.Future[None]] = {}

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
        size = prompt_tokens + new_tokens * _SHARE_WRITTEN
        turn = self._turns.join(caller, size)
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
            if self._waiting.pop(turn, None) is None:
                self._free += size
            self._turns.leave(turn)
            self._give()

    def _give(self) -> None:
        """Give room to those whose turn it is, as long as it lasts."""
        while self._waiting:
            turn = self._turns.first(self._waiting)
            if turn.left > self._free:
                return  # and nobody smaller goes first, or it would wait for ever
            self._free -= turn.left
            self._turns.give(turn, turn.left)
            admitted = self._waiting.pop(turn)
            if not admitted.done():
                admitted.set_result(None)
