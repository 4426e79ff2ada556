"""Texts are encoded in turns: who asks for much does not hold up who asks for little."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from service.engine.text import TextThreads

_LIMIT_S = 120


class Gate:
    """A work that lasts until it may end; says when it has begun."""

    def __init__(self) -> None:
        self.begun, self.ends = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.ends.wait(_LIMIT_S)

    async def has_begun(self) -> None:
        assert await asyncio.to_thread(self.begun.wait, _LIMIT_S)


@pytest.fixture()
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.ends.set()


@pytest.fixture()
def threads() -> Iterator[TextThreads]:
    threads = TextThreads(1)
    yield threads
    threads.close()


async def _asked(
    threads: TextThreads, order: list[str], name: str, characters: int = 10
) -> "asyncio.Task[None]":
    """A work of the caller that its name begins with, which waits from now on."""
    work: Callable[[], None] = lambda: order.append(name)  # noqa: E731
    task = asyncio.ensure_future(threads.run(work, name[0], characters))
    await asyncio.sleep(0)
    return task


def test_a_flood_of_one_caller_holds_up_itself_alone(threads: TextThreads, gate: Gate) -> None:
    async def main() -> None:
        order: list[str] = []
        first = asyncio.ensure_future(threads.run(gate, "a", 10))
        await gate.has_begun()
        flood = [await _asked(threads, order, f"a{number}") for number in range(50)]
        other = [await _asked(threads, order, f"b{number}") for number in range(3)]
        gate.ends.set()
        await asyncio.gather(first, *flood, *other)
        assert order[0] == "b0" and order.index("b2") <= 5
        assert sorted(order) == sorted([f"a{n}" for n in range(50)] + ["b0", "b1", "b2"])

    asyncio.run(main())


def test_of_one_caller_a_short_text_passes_long_ones(threads: TextThreads, gate: Gate) -> None:
    async def main() -> None:
        order: list[str] = []
        first = asyncio.ensure_future(threads.run(gate, "a", 10))
        await gate.has_begun()
        asked = [await _asked(threads, order, f"a{number}", 60_000) for number in range(20)]
        asked.append(await _asked(threads, order, "a short", 10))
        gate.ends.set()
        await asyncio.gather(first, *asked)
        assert order.index("a short") <= 2

    asyncio.run(main())


def test_what_nobody_waits_for_does_not_begin(threads: TextThreads, gate: Gate) -> None:
    async def main() -> None:
        order: list[str] = []
        first = asyncio.ensure_future(threads.run(gate, "a", 10))
        await gate.has_begun()
        left = [await _asked(threads, order, f"b{number}") for number in range(5)]
        stays = await _asked(threads, order, "c")
        for task in left:
            task.cancel()
        first.cancel()  # it has begun, so its thread is busy as long as it lasts
        await asyncio.gather(first, *left, return_exceptions=True)
        assert order == []
        gate.ends.set()
        await stays
        await (await _asked(threads, order, "d"))
        assert order == ["c", "d"]

    asyncio.run(main())


def test_a_turn_that_comes_as_its_caller_leaves_is_the_next_ones(threads: TextThreads) -> None:
    async def main() -> None:
        order: list[str] = []
        for _ in range(20):
            leaves = asyncio.ensure_future(threads.run(lambda: None, "a"))
            await asyncio.sleep(0)  # its turn has come, and it has not noticed
            leaves.cancel()
            await asyncio.gather(leaves, return_exceptions=True)
        await (await _asked(threads, order, "b"))
        assert order == ["b"]

    asyncio.run(main())


def test_errors_reach_who_waits(threads: TextThreads) -> None:
    def fail() -> None:
        raise ValueError("no text")

    async def main() -> None:
        with pytest.raises(ValueError, match="no text"):
            await threads.run(fail)
        assert await threads.run(lambda: 1) == 1

    asyncio.run(main())
