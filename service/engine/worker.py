"""One thread that runs passes over the model, in order of urgency.

Attribution must not wait behind work that nobody asked for yet, and must stop when nobody waits for
it any more: a long method runs many passes, and `checkpoint`, called before each, ends it there.
Knows nothing of what it runs.
"""

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

URGENT = 0
"""Somebody waits for it."""

SPARE = 1
"""Nobody waits for it yet."""


class AbandonedError(Exception):
    """Nobody waits for this piece of work any more."""


@dataclass(order=True)
class _Job:
    urgency: int
    number: int
    work: Callable[[], Any] | None = field(compare=False)
    abandoned: threading.Event = field(compare=False, default_factory=threading.Event)
    future: "Future[Any]" = field(compare=False, default_factory=Future)


def _nothing() -> None:
    """The work of a job that nobody waits for any more."""


class Worker:
    """Runs pieces of work one after the other, urgent ones first, each kind in order of arrival.

    Args:
        name: of its thread.
        initializer: what that thread does before any work.
    """

    def __init__(self, name: str, initializer: Callable[[], None] = lambda: None) -> None:
        self._initializer = initializer
        self._jobs: queue.PriorityQueue[_Job] = queue.PriorityQueue()
        self._numbers = itertools.count()
        self._waiting: set[int] = set()  # numbers of urgent jobs that have not begun
        self._running: _Job | None = None
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._closed = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Finish what is running, abandon what waits."""
        if self._closed or not self._thread.ident:
            self._closed = True
            return
        self._closed = True
        running = self._running
        if running is not None:
            running.abandoned.set()
        self._jobs.put(_Job(-1, next(self._numbers), None))
        self._thread.join()
        while True:
            try:
                self._jobs.get_nowait().future.cancel()
            except queue.Empty:
                return

    @property
    def waiting(self) -> int:
        """Urgent pieces of work that have not begun, and that somebody waits for."""
        return len(self._waiting)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of an urgent piece of work; cancelling abandons it."""
        job = self._put(URGENT, work)
        try:
            result: T = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.abandoned.set()
            job.work = _nothing  # what it holds on to goes now, and not when its turn comes
            raise
        finally:
            self._waiting.discard(job.number)
        return result

    def spare(self, work: Callable[[], object], abandoned: threading.Event) -> None:
        """Put in a piece of work for later. Its result and its errors are nobody's.

        Args:
            work: what to do.
            abandoned: set it when it is not wanted any more.
        """
        self._put(SPARE, work, abandoned)

    def _put(
        self, urgency: int, work: Callable[[], Any], abandoned: threading.Event | None = None
    ) -> _Job:
        job = _Job(urgency, next(self._numbers), work, abandoned or threading.Event())
        if urgency == URGENT:
            self._waiting.add(job.number)
        self._jobs.put(job)
        return job

    def checkpoint(self) -> None:
        """Call this in between, from within a piece of work.

        Raises:
            AbandonedError: on the worker's thread, if nobody waits for what it is doing.
        """
        job = self._running
        if (
            job is not None
            and threading.current_thread() is self._thread
            and job.abandoned.is_set()
        ):
            raise AbandonedError

    def _loop(self) -> None:
        self._initializer()
        while True:
            job = self._jobs.get()
            if job.work is None:
                return
            self._waiting.discard(job.number)
            if job.abandoned.is_set() or not job.future.set_running_or_notify_cancel():
                continue
            self._running = job
            try:
                result = job.work()
            except BaseException as error:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
            finally:
                self._running = None
            del job  # or it would keep its work's memory until the next one comes
