"""The worker runs urgent work first, one piece at a time, and lets go of what nobody wants."""

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from service.engine.worker import AbandonedError, Worker


@pytest.fixture()
def worker() -> Iterator[Worker]:
    worker = Worker("test")
    worker.start()
    yield worker
    worker.close()


def _hold(worker: Worker) -> threading.Event:
    """Keep the worker busy until the event is set; returns once it is."""
    begun, release = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()

    worker.spare(work, threading.Event())
    begun.wait()
    return release


def test_urgent_work_goes_before_spare_work_and_each_kind_in_order(worker: Worker) -> None:
    done: list[str] = []

    async def main() -> None:
        release = _hold(worker)
        for name in ("spare 1", "spare 2"):
            worker.spare(lambda name=name: done.append(name), threading.Event())
        urgent = [
            asyncio.ensure_future(worker.run(lambda name=name: done.append(name)))
            for name in ("urgent 1", "urgent 2")
        ]
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*urgent)
        while len(done) < 4:
            await asyncio.sleep(0.01)

    asyncio.run(main())
    assert done == ["urgent 1", "urgent 2", "spare 1", "spare 2"]


def test_errors_reach_who_waits_and_the_next_piece_runs(worker: Worker) -> None:
    async def main() -> int:
        with pytest.raises(ZeroDivisionError):
            await worker.run(lambda: 1 // 0)
        return await worker.run(lambda: 7)

    assert asyncio.run(main()) == 7


def test_cancelled_work_that_has_not_begun_never_begins(worker: Worker) -> None:
    done: list[str] = []

    async def main() -> None:
        release = _hold(worker)
        waiting = asyncio.ensure_future(worker.run(lambda: done.append("cancelled")))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        abandoned = threading.Event()
        worker.spare(lambda: done.append("abandoned"), abandoned)
        abandoned.set()
        release.set()
        await worker.run(lambda: done.append("wanted"))
        await worker.run(lambda: None)

    asyncio.run(main())
    assert done == ["wanted"]


def test_who_waits_counts_and_what_nobody_waits_for_is_let_go(worker: Worker) -> None:
    class Held:
        def __call__(self) -> None: ...

    async def leave(held: Held) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(worker.run(held), 0.01)

    async def main() -> None:
        release = _hold(worker)
        try:
            worker.spare(lambda: None, threading.Event())
            assert worker.waiting == 0
            staying = asyncio.ensure_future(worker.run(lambda: None))
            held = Held()
            gone = weakref.ref(held)
            leaving = asyncio.ensure_future(leave(held))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert worker.waiting == 2
            await leaving
            assert worker.waiting == 1
            del held, leaving
            gc.collect()
            assert gone() is None  # though its turn has not come
        finally:
            release.set()
        await staying
        assert worker.waiting == 0

    asyncio.run(main())


def test_cancelled_work_ends_at_its_next_checkpoint(worker: Worker) -> None:
    begun, cancelled, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        worker.checkpoint()  # somebody waits: goes on
        begun.set()
        cancelled.wait()
        try:
            worker.checkpoint()
        except AbandonedError:
            ended.set()
            raise

    async def main() -> None:
        waiting = asyncio.ensure_future(worker.run(work))
        await asyncio.to_thread(begun.wait)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        cancelled.set()
        await worker.run(lambda: None)

    asyncio.run(main())
    assert ended.is_set()


def test_a_checkpoint_elsewhere_does_nothing(worker: Worker) -> None:
    worker.checkpoint()


def test_closing_cancels_what_waits() -> None:
    worker = Worker("test")
    worker.start()

    async def main() -> None:
        release = _hold(worker)
        waiting = asyncio.ensure_future(worker.run(lambda: None))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(worker.close))
        await asyncio.sleep(0.05)
        release.set()
        await closing
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(main())


def test_closing_a_worker_that_never_started_is_fine() -> None:
    worker = Worker("test")
    worker.close()
    worker.close()
