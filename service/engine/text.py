"""Threads in which texts are encoded, and what takes time without a pass over the model.

They are few, and a work that has begun cannot be stopped. So works begin in turns: who asks for
much waits for themselves and not before others.
"""

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from service import tracing
from service.engine.turns import Turn, Turns

T = TypeVar("T")


class TextThreads:
    """Runs works in a few threads. Ask on the event loop only.

    Args:
        count: of threads.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="text")
        # Now, and not when a work comes: the event loop would wait until a new thread has run.
        all_there = threading.Barrier(count)
        for _ in range(count):
            self._pool.submit(all_there.wait)
        self._free = count
        self._turns = Turns()
        self._waiting: dict[Turn, asyncio.Future[None]] = {}

    async def run(self, work: Callable[[], T], caller: str = "", characters: int = 0) -> T:
        """The result of a work, which begins when it is the caller's turn. Cancelling abandons one
        that has not begun.

        Args:
            work: what to do.
            caller: who waits for it.
            characters: of the texts that it reads, about.
        """
        loop = asyncio.get_running_loop()
        turn = self._turns.join(caller, characters)
        given = self._waiting[turn] = loop.create_future()
        self._begin()
        try:
            await given
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None:  # its turn had come just now
                self._end(turn)
            else:
                self._turns.leave(turn)
            raise
        try:
            done = self._pool.submit(tracing.bound(work))
        except BaseException:
            self._end(turn)
            raise
        done.add_done_callback(functools.partial(self._ended, loop, turn))
        return await asyncio.wrap_future(done)

    def close(self) -> None:
        """Finish what has begun and abandon the rest. Safe to call more than once."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """Give threads that are free to those whose turn it is."""
        while self._free:
            wanted = [turn for turn, given in self._waiting.items() if not given.done()]
            if not wanted:
                return
            turn = self._turns.first(wanted)
            self._free -= 1
            self._turns.give(turn, turn.left)
            self._waiting.pop(turn).set_result(None)

    def _ended(self, loop: asyncio.AbstractEventLoop, turn: Turn, _: "Future[Any]") -> None:
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(self._end, turn)

    def _end(self, turn: Turn) -> None:
        """A thread is free again."""
        self._free += 1
        self._turns.leave(turn)
        self._begin()
