"""One thread that runs passes over the model: short works between the passes of long ones.

A work may take one pass or hundreds. `checkpoint`, called before each, ends a work that nobody
waits for any more, and runs others first whose turn it is. A work that has begun is set aside only
for one that is at most half as long as what is left of it: two long ones one after the other are
both done earlier, on average, than two in alternation, and no more than a few are under way at
once. Works that nobody waits for yet run when nothing else wants the model. Knows nothing of what
it runs.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service import tracing
from service.engine.accounts import Accounts
from service.engine.turns import Turn, Turns

T = TypeVar("T")

_SHARE_TO_GO_FIRST = 0.5
"""Of what is left of a work that has begun: how long another may be that is run before it."""


class AbandonedError(Exception):
    """Nobody waits for this work any more."""


@dataclass(eq=False)
class Job:
    """A work that was handed in. Its turn is None if nobody waits for it yet."""

    work: Callable[[], Any]
    turn: Turn | None = None
    handed_in: float = field(default_factory=time.perf_counter)
    future: "Future[Any]" = field(default_factory=Future)
    abandoned: bool = False
    began: float | None = None
    aside: float = 0.0  # seconds in which others ran although it had begun
    tokens: int = 0  # that its passes have taken through the model

    @property
    def waited(self) -> float:
        """Seconds until it began, or until now, and in which others ran."""
        began = time.perf_counter() if self.began is None else self.began
        return began - self.handed_in + self.aside


@dataclass(frozen=True)
class Done(Generic[T]):
    """A work that was done.

    Attributes:
        result: what it returned.
        seconds: what it took, without those in which others were run first.
        tokens: that its passes took through the model.
    """

    result: T
    seconds: float
    tokens: int


class Worker:
    """Runs works, one at a time.

    Args:
        name: of its thread.
        initializer: what that thread does before any work.
        busy: whether something else wants the machine, so that works nobody waits for have to
            wait. When it no longer is, call `nudge`.
        accounts: where it is written down what each caller was given.
    """

    def __init__(
        self,
        name: str,
        initializer: Callable[[], None] = lambda: None,
        busy: Callable[[], bool] = lambda: False,
        accounts: Accounts | None = None,
    ) -> None:
        self._initializer = initializer
        self._busy = busy
        self._accounts = accounts or Accounts()
        self._turns = Turns()
        self._waiting: dict[Turn, Job] = {}  # somebody waits for them
        self._spare: deque[Job] = deque()
        self._begun: list[Job] = []  # the last one runs, the others are set aside
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._closed = False

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Finish the pass that runs, and abandon everything: who waits gets an `AbandonedError`.
        Safe to call more than once."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident:
            self._thread.join()
        for job in [*self._waiting.values(), *self._spare]:
            with suppress(InvalidStateError):  # cancelled just now
                job.future.set_exception(AbandonedError())
            self.abandon(job)

    @property
    def waiting(self) -> int:
        """Works that have not begun, and that somebody waits for."""
        return len(self._waiting)

    def nudge(self) -> None:
        """Look again whether there is something to do."""
        with self._changed:
            self._changed.notify_all()

    # -- handing in ----------------------------------------------------------------------------

    async def run(self, work: Callable[[], T], *, caller: str = "", size: float = 0.0) -> Done[T]:
        """Do a work that somebody waits for; cancelling abandons it.

        Args:
            work: what to do.
            caller: who waits for it.
            size: tokens that it will take through the model, about.

        Raises:
            AbandonedError: the worker was closed before it was done.
        """
        with self._changed:
            job = Job(tracing.bound(work), self._turns.join(caller, size))
            assert job.turn is not None
            self._waiting[job.turn] = job
            self._changed.notify_all()
        try:
            done: Done[T] = await asyncio.wrap_future(job.future)
        finally:
            self.abandon(job)
            self._accounts.of(caller).waited += job.waited
        return done

    def spare(self, job: Job) -> None:
        """Hand in a work for later, whose result and errors are nobody's."""
        with self._changed:
            self._spare.append(job)
            self._changed.notify_all()

    def abandon(self, job: Job) -> None:
        """Nobody wants a work any more: it does not begin, or ends before its next pass."""
        with self._changed:
            job.abandoned = True
            job.future.cancel()
            if job.turn is not None and job.turn in self._waiting:
                del self._waiting[job.turn]
                self._turns.leave(job.turn)
            if job in self._spare:
                self._spare.remove(job)
            self._changed.notify_all()

    # -- on the thread -------------------------------------------------------------------------

    def checkpoint(self, tokens: int) -> None:
        """What a work calls before each pass.

        Args:
            tokens: that the pass takes through the model.

        Raises:
            AbandonedError: nobody waits for the work.
        """
        job = self._begun[-1]
        while (first := self._next_before(job)) is not None:
            set_aside = time.perf_counter()
            self._do(first)
            job.aside += time.perf_counter() - set_aside
        if job.abandoned or self._closed:
            raise AbandonedError
        job.tokens += tokens
        if job.turn is not None:
            with self._changed:
                self._turns.give(job.turn, tokens)
            self._accounts.of(job.turn.caller).scored_tokens += tokens

    def _loop(self) -> None:
        self._initializer()
        while (job := self._next()) is not None:
            self._do(job)
            del job  # or it would keep its work's memory until the next one comes

    def _next(self) -> Job | None:
        """The work to begin, as soon as there is one; None if the worker is closed."""
        with self._changed:
            while not self._closed:
                if self._waiting:
                    return self._waiting.pop(self._turns.first(self._waiting))
                if self._spare and not self._busy():
                    return self._spare.popleft()
                self._changed.wait()
        return None

    def _next_before(self, current: Job) -> Job | None:
        """A work to run before the next pass of one that has begun; None to go on with that. One
        that nobody waits for is held up as long as the machine is busy."""
        with self._changed:
            while not (self._closed or current.abandoned):
                turn = current.turn
                at_most = float("inf") if turn is None else turn.left * _SHARE_TO_GO_FIRST
                turns = [other for other in self._waiting if other.left <= at_most]
                if turn is not None:
                    turns.append(turn)
                if turns:
                    first = self._turns.first(turns)
                    return None if first is turn else self._waiting.pop(first)
                if not self._busy():
                    return None
                self._changed.wait()
        return None

    def _do(self, job: Job) -> None:
        job.began = began = time.perf_counter()
        self._begun.append(job)
        try:
            if job.future.set_running_or_notify_cancel():
                try:
                    result = job.work()
                except BaseException as error:
                    job.future.set_exception(error)
                else:
                    seconds = time.perf_counter() - began - job.aside
                    job.future.set_result(Done(result, seconds, job.tokens))
        finally:
            self._begun.pop()
            if job.turn is not None:
                with self._changed:
                    self._turns.leave(job.turn)
