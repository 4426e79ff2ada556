"""Passes over the model for attribution: in their turn, in the time and the memory there is.

Knows the model and how long passes take; nothing of what they are for.
"""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from at2.errors import is_out_of_memory
from at2.model.attention import probe_ids, weighed_scores
from at2.model.passes import between_passes
from at2.model.tokens import MarkedTokens
from at2.progress import silent
from service import tracing
from service.caller import Caller, Departure
from service.engine.accounts import Accounts
from service.engine.admission import Admission
from service.engine.limits import Limits
from service.engine.loading import Loaded
from service.engine.speed import Speed
from service.engine.threads import claim_threads
from service.engine.worker import AbandonedError, Done, Job, Worker
from service.failures import NoMemoryError

logger = logging.getLogger("at2.service")

T = TypeVar("T")

_MOST_WAITING_TO_PREPARE = 64
"""Beyond these, scores are computed when they are asked for."""

_MEASURED_TOKENS = 64
"""Of a pass by which the speed is measured."""


class ModelThread(Worker):
    """Runs works that take passes over the model.

    Args:
        loaded: the model.
        limits: of one request.
        admission: of works that take many passes.
        speed: of passes, which says what a work may take.
        accounts: where it is written down what each caller was given.
        busy: whether responses are being written, for which what is only prepared makes way; call
            `nudge` when none is any more.
    """

    def __init__(
        self,
        loaded: Loaded,
        limits: Limits,
        admission: Admission,
        speed: Speed,
        accounts: Accounts,
        busy: Callable[[], bool],
    ) -> None:
        super().__init__("attribution", claim_threads(), busy, accounts)
        self._loaded = loaded
        self._limits = limits
        self._admission = admission
        self._speed = speed
        self._preparing: dict[str, Job] = {}
        self.passes = 0  # over the model, so far
        loaded.model.register_forward_pre_hook(lambda *_: self._count())

    def _count(self) -> None:
        self.passes += 1

    @property
    def preparing(self) -> int:
        """Works that nobody waits for yet, and that are not done."""
        return len(self._preparing)

    async def measure(self) -> None:
        """Learn what a pass takes, while nothing else runs."""
        length = min(_MEASURED_TOKENS, self._limits.context_tokens)
        ids, half = probe_ids(self._loaded.model, length).tolist(), length // 2
        tokens = MarkedTokens(ids, (half, length), query_range=(half - 2, half - 1))
        work = self._with_checkpoints(
            lambda: weighed_scores(
                self._loaded.model, tokens, self._loaded.weighings, columns=(0, half - 2)
            )
        )
        await self.run(work)  # the first one takes longer
        done = await self.run(work)
        self._speed.measure_passes(done.tokens, done.seconds)

    async def in_turn(
        self, work: Callable[[], T], passes: int, tokens: int, caller: Caller
    ) -> Done[T]:
        """Do a work when it is the caller's turn.

        Args:
            work: what to do.
            passes: that it takes at the most.
            tokens: that each of them takes through the model at the most.
            caller: who waits for it, for as long as it may take.

        Raises:
            BusyError: it is one of many passes, and there are too many such already.
            NoMemoryError: it takes more memory than there is.
            EngineDownError: the server stops.
        """
        size = passes * tokens
        caller.allow(self._limits.allowed_seconds(self._speed.pass_seconds(size)))
        try:
            with self._admission.attribution(passes, caller.name):
                done = await self.run(self._with_checkpoints(work), caller=caller.name, size=size)
            tracing.note({"at2.scored_tokens": done.tokens, "at2.scoring_seconds": done.seconds})
            self._speed.observe_passes(done.tokens, done.seconds)
            return done
        except AbandonedError:
            raise caller.error(Departure.STOPPING) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            logger.error("out of memory in an attribution: %s", error)
        _free_memory()  # only now: the error held on to what the pass had made
        raise NoMemoryError

    def prepare(self, name: str, work: Callable[[], None]) -> None:
        """Do a work once nothing else waits, unless many such wait already.

        Args:
            name: by which it may be abandoned.
            work: what to do.
        """
        if len(self._preparing) >= _MOST_WAITING_TO_PREPARE:
            return

        def prepared() -> None:
            try:
                work()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("no memory to prepare an attribution")
                _free_memory()
            finally:
                self._preparing.pop(name, None)

        job = self._preparing[name] = Job(self._with_checkpoints(prepared))
        self.spare(job)

    def forget(self, name: str) -> None:
        """Abandon what is prepared under a name, if anything is."""
        preparing = self._preparing.pop(name, None)
        if preparing is not None:
            self.abandon(preparing)

    def _with_checkpoints(self, work: Callable[[], T]) -> Callable[[], T]:
        """The same work, which lets others go first between its passes."""

        def with_checkpoints() -> T:
            with tracing.span("score"), between_passes(self.checkpoint), silent():
                return work()

        return with_checkpoints


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
