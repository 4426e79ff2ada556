"""The worker runs short works between the passes of long ones, and lets go of what nobody wants.

Works here stop before each of their passes until the test lets them go on, so that the order of all
passes is known.
"""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from service.engine.worker import AbandonedError, Job, Worker

TOKENS = 10  # of a pass


class Passes:
    """Works that note each of their passes, and that can be held before one of them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.noted: list[str] = []
        self._held: dict[tuple[str, int], tuple[threading.Event, threading.Event]] = {}

    def hold(self, name: str, number: int) -> tuple[threading.Event, threading.Event]:
        """Events: the work is about to take its pass of this number; it may."""
        events = self._held[name, number] = threading.Event(), threading.Event()
        return events

    def work(self, name: str, count: int) -> Any:
        def run() -> str:
            for number in range(count):
                reached, go_on = self._held.get((name, number), (None, None))
                if reached is not None and go_on is not None:
                    reached.set()
                    go_on.wait()
                self._worker.checkpoint(TOKENS)
                self.noted.append(name)
            return name

        return run

    def ask(self, name: str, count: int, caller: str = "") -> "asyncio.Future[Any]":
        return asyncio.ensure_future(
            self._worker.run(self.work(name, count), caller=caller, size=count * TOKENS)
        )


@pytest.fixture()
def worker() -> Iterator[Worker]:
    worker = Worker("test")
    worker.start()
    yield worker
    worker.close()


@pytest.fixture()
def passes(worker: Worker) -> Passes:
    return Passes(worker)


async def _soon() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _held(events: tuple[threading.Event, threading.Event]) -> threading.Event:
    """Wait until the work is held; what lets it go on."""
    await asyncio.to_thread(events[0].wait)
    return events[1]


def test_a_short_work_runs_between_two_passes_of_a_long_one(worker: Worker, passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("long", 100)
        long = passes.ask("long", 200, caller="one")
        go_on = await _held(events)
        short = passes.ask("short", 1, caller="other")
        await _soon()
        go_on.set()
        done = await short
        assert done.result == "short"
        await long

    asyncio.run(main())
    assert passes.noted == ["long"] * 100 + ["short"] + ["long"] * 100


def test_a_short_work_of_the_same_caller_passes_its_long_one_too(passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("long", 10)
        long = passes.ask("long", 50)
        go_on = await _held(events)
        short = passes.ask("short", 1)
        await _soon()
        go_on.set()
        await asyncio.gather(short, long)

    asyncio.run(main())
    assert passes.noted.index("short") <= 11


def test_works_that_wait_go_by_their_length(passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("first", 0)
        asked = [passes.ask("first", 1)]
        go_on = await _held(events)
        for name, count in (("300", 300), ("20", 20), ("1", 1), ("60", 60)):
            asked.append(passes.ask(name, count))
        await _soon()
        go_on.set()
        await asyncio.gather(*asked)

    asyncio.run(main())
    order = list(dict.fromkeys(reversed(passes.noted)))[::-1]  # by their last passes
    assert order == ["first", "1", "20", "60", "300"]


def test_who_asks_for_much_gets_no_more_turns_than_who_asks_for_little(passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("first", 0)
        first = passes.ask("first", 1, caller="nobody")
        go_on = await _held(events)
        greedy = [passes.ask(f"greedy {n}", 1, caller="greedy") for n in range(30)]
        await _soon()
        modest = [passes.ask(f"modest {n}", 1, caller="modest") for n in range(3)]
        await _soon()
        go_on.set()
        await asyncio.gather(first, *greedy, *modest)

    asyncio.run(main())
    assert max(passes.noted.index(f"modest {n}") for n in range(3)) <= 6


def test_a_work_is_not_set_aside_for_one_that_is_as_long(passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("early", 10)
        early = passes.ask("early", 100, caller="one")
        go_on = await _held(events)
        late = passes.ask("late", 80, caller="other")
        await _soon()
        go_on.set()
        await asyncio.gather(early, late)

    asyncio.run(main())
    assert passes.noted == ["early"] * 100 + ["late"] * 80


def test_a_long_work_is_not_held_up_by_a_flood_of_short_ones(passes: Passes) -> None:
    async def main() -> None:
        long = passes.ask("long", 20, caller="one")
        number = 0
        while not long.done():
            number += 1
            await passes.ask("short", 1, caller="other")
            assert number < 2000

    asyncio.run(main())
    last = len(passes.noted) - passes.noted[::-1].index("long")
    assert passes.noted[:last].count("short") <= 21  # half of the passes, at the most


def test_what_a_work_took_leaves_out_those_that_went_first(passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("long", 1)
        inside = passes.hold("short", 0)
        long = passes.ask("long", 50, caller="one")
        go_on = await _held(events)
        short = passes.ask("short", 1, caller="other")
        await _soon()
        go_on.set()
        go_on = await _held(inside)
        await asyncio.sleep(0.2)
        go_on.set()
        await long
        assert (await short).seconds >= 0.2
        assert passes._worker._accounts.of("one").waited >= 0.2
        assert passes._worker._accounts.of("one").scored_tokens == 50 * TOKENS

    asyncio.run(main())


def test_works_nobody_waits_for_yet_come_last(worker: Worker, passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("first", 0)
        first = passes.ask("first", 1)
        go_on = await _held(events)
        for name in ("spare 1", "spare 2"):
            worker.spare(Job(passes.work(name, 3)))
        asked = [passes.ask(name, 1) for name in ("asked 1", "asked 2")]
        await _soon()
        go_on.set()
        await asyncio.gather(first, *asked)
        held = passes.hold("last", 0)
        worker.spare(Job(passes.work("last", 1)))
        (await _held(held)).set()

    asyncio.run(main())
    assert passes.noted[:9] == ["first", "asked 1", "asked 2", *["spare 1"] * 3, *["spare 2"] * 3]


def test_works_nobody_waits_for_yet_wait_while_the_machine_is_busy() -> None:
    busy = threading.Event()
    worker = Worker("test", busy=busy.is_set)
    passes = Passes(worker)
    worker.start()

    async def main() -> None:
        # Before it begins, and between two of its passes.
        events, last = passes.hold("spare", 1), passes.hold("spare", 2)
        busy.set()
        worker.spare(Job(passes.work("spare", 3)))
        await passes.ask("asked 1", 1)
        assert passes.noted == ["asked 1"]
        busy.clear()
        worker.nudge()
        go_on = await _held(events)
        busy.set()
        asked = passes.ask("asked 2", 1)
        await _soon()
        go_on.set()
        await asked
        await passes.ask("asked 3", 1)
        assert passes.noted == ["asked 1", "spare", "asked 2", "asked 3"]
        busy.clear()
        worker.nudge()
        (await _held(last)).set()

    asyncio.run(main())
    worker.close()
    assert passes.noted[4:5] == ["spare"]


def test_errors_reach_who_waits_and_the_next_work_runs(worker: Worker) -> None:
    async def main() -> int:
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        return (await worker.run(lambda: 7)).result

    assert asyncio.run(main()) == 7


def test_an_error_in_a_work_that_went_first_is_not_the_long_ones(passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("long", 3)
        long = passes.ask("long", 9)
        go_on = await _held(events)
        broken = asyncio.ensure_future(passes._worker.run(lambda: 1 // 0))
        await _soon()
        go_on.set()
        with pytest.raises(ZeroDivisionError):
            await broken
        assert (await long).result == "long"

    asyncio.run(main())


def test_cancelled_works_that_have_not_begun_never_begin(worker: Worker, passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("first", 0)
        first = passes.ask("first", 1)
        go_on = await _held(events)
        cancelled = passes.ask("cancelled", 1)
        await _soon()
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        job = Job(passes.work("abandoned", 1))
        worker.spare(job)
        worker.abandon(job)
        go_on.set()
        await first
        await passes.ask("wanted", 1)

    asyncio.run(main())
    assert passes.noted == ["first", "wanted"]


def test_who_waits_counts_and_what_nobody_waits_for_is_let_go(
    worker: Worker, passes: Passes
) -> None:
    class Held:
        def __call__(self) -> None: ...

    async def leave(held: Held) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await worker.run(held)

    async def main() -> None:
        events = passes.hold("first", 0)
        first = passes.ask("first", 1)
        go_on = await _held(events)
        try:
            worker.spare(Job(lambda: None))
            assert worker.waiting == 0
            staying = asyncio.ensure_future(worker.run(lambda: None))
            held = Held()
            gone = weakref.ref(held)
            leaving = asyncio.ensure_future(leave(held))
            await _soon()
            assert worker.waiting == 2
            leaving.cancel()
            await leaving
            assert worker.waiting == 1
            del held, leaving
            gc.collect()
            assert gone() is None  # though its turn has not come
        finally:
            go_on.set()
        await asyncio.gather(first, staying)
        assert worker.waiting == 0

    asyncio.run(main())


def test_a_cancelled_work_ends_before_its_next_pass(passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("cancelled", 2)
        cancelled = passes.ask("cancelled", 5)
        go_on = await _held(events)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        go_on.set()
        await passes.ask("next", 1)

    asyncio.run(main())
    assert passes.noted == ["cancelled", "cancelled", "next"]


def test_a_long_work_that_is_cancelled_takes_none_along(passes: Passes) -> None:
    async def main() -> None:
        events, inside = passes.hold("long", 2), passes.hold("short", 0)
        long = passes.ask("long", 50, caller="one")
        go_on = await _held(events)
        short = passes.ask("short", 2, caller="other")
        await _soon()
        go_on.set()
        go_on = await _held(inside)  # the short one runs, the long one is set aside
        long.cancel()
        with pytest.raises(asyncio.CancelledError):
            await long
        go_on.set()
        assert (await short).result == "short"
        await passes.ask("next", 1)

    asyncio.run(main())
    assert passes.noted == ["long", "long", "short", "short", "next"]


def test_closing_tells_all_who_wait(worker: Worker, passes: Passes) -> None:
    async def main() -> None:
        events = passes.hold("running", 1)
        running = passes.ask("running", 3)
        go_on = await _held(events)
        waiting = passes.ask("waiting", 5)
        worker.spare(Job(passes.work("spare", 1)))
        await _soon()
        closing = asyncio.ensure_future(asyncio.to_thread(worker.close))
        while not worker._closed:
            await asyncio.sleep(0)
        go_on.set()
        await closing
        for asked in (running, waiting):
            with pytest.raises(AbandonedError):
                await asked

    asyncio.run(main())
    assert passes.noted == ["running"]


def test_closing_a_worker_that_never_started_is_fine() -> None:
    worker = Worker("test")
    worker.close()
    worker.close()
