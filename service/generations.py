"""Generations from their place in line to their record: written, kept, prepared, forgotten.

The one owner of all three, so that routes translate and nothing else. Knows nothing of HTTP.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from at2.errors import InputError
from service import tracing
from service.caller import Caller, ClientGoneError, Departure
from service.engine import Answer, Engine, Findings, Generating, Question, Sampling
from service.failures import BusyError
from service.logs import note, note_text
from service.metrics import Aborted, Metrics
from service.records import Generation, Prompt, RecordStore

_LEFT = (ClientGoneError, asyncio.CancelledError, GeneratorExit)
"""How a generation ends whose caller has left."""


class Generations:
    """All generations of an application.

    Args:
        engine: what writes them.
        store: what keeps them.
        metrics: what counts them.
    """

    def __init__(self, engine: Engine, store: RecordStore, metrics: Metrics) -> None:
        self._engine = engine
        self._store = store
        self._metrics = metrics

    async def begin(
        self, prompt: Prompt, source_type: str, sampling: Sampling, caller: Caller
    ) -> "Writing":
        """Begin to write a response: iterate over it, and close it.

        Raises:
            InputError, ServerFailure, ClientGoneError: see `Engine.generate`.
        """
        span = tracing.begin("generate", {"gen_ai.request.model": self._engine.settings.model})
        clock = _Clock(self._metrics, caller, span)
        try:
            with clock.span.active():
                generating = await self._engine.generate(
                    prompt, source_type, sampling, caller, clock.tokens
                )
        except (InputError, BusyError) as error:
            clock.refused(error)
            raise
        except BaseException as error:
            clock.aborted(error)
            raise
        clock.prompt_tokens = generating.prompt_tokens
        return Writing(generating, self._engine, self._store, caller, clock)

    async def forget(self, generation_id: str, caller: Caller) -> bool:
        """Forget a generation and its scores; whether there was one of this caller's."""
        existed = await self._store.delete(generation_id, caller.name)
        if existed:
            self._engine.forget(generation_id)
        return existed

    @property
    def erased(self) -> bool:
        """Whether all that was forgotten is gone from the store's files, too."""
        return self._store.erased

    async def sweep(self) -> None:
        """Forget what has expired, from the store and from memory."""
        for generation_id in await self._store.sweep():
            self._engine.forget(generation_id)
            await asyncio.sleep(0)  # there may be many


class Writing:
    """A response on its way to its record: iterate over it once, and close it in any case.

    Args:
        generating: the response as it is written.
        engine: prepares its scores.
        store: keeps it.
        caller: whose it is.
        clock: times it.
    """

    def __init__(
        self,
        generating: Generating,
        engine: Engine,
        store: RecordStore,
        caller: Caller,
        clock: "_Clock",
    ) -> None:
        self._generating = generating
        self._engine = engine
        self._store = store
        self._owner = caller.name
        self._clock = clock
        self.expires: int | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            async for text in self._generating:
                yield text
            answer = self._generating.answer
            self._clock.done(answer.generation)
            _note(answer.generation)
            self.expires = await self._store.put(answer.generation, self._owner)
        except BaseException as error:
            self._clock.aborted(error)
            raise
        if self.expires is not None:  # nobody can ask about what is not kept
            self._engine.prepare(answer)

    @property
    def id(self) -> str:
        """The id of the generation that this becomes."""
        return self._generating.id

    @property
    def prompt(self) -> Prompt:
        """What is answered."""
        return self._generating.prompt

    async def attribute_so_far(self, question: Question) -> Findings | None:
        """See `Engine.attribute_so_far`; between two pieces."""
        return await self._engine.attribute_so_far(self._generating, question)

    async def attribute(self, question: Question) -> Findings:
        """See `Engine.attribute_written`; once the iteration has ended."""
        return await self._engine.attribute_written(self._generating, question)

    async def finished(self) -> Answer:
        """The whole answer, kept, without its pieces."""
        async for _ in self:
            pass
        return self.answer

    @property
    def answer(self) -> Answer:
        """The whole answer, once the iteration has ended; `expires` says how long it is kept."""
        return self._generating.answer

    def close(self) -> None:
        """Stop what is not finished, and give up the place. Safe to call more than once."""
        self._generating.close()
        self._clock.aborted()


def _note(generation: Generation) -> None:
    """What the log line of the request says of a response."""
    note(
        generation=generation.id,
        finish_reason=generation.finish_reason,
        prompt_tokens=generation.prompt_tokens,
        completion_tokens=len(generation.response_ids),
    )
    note_text(response=generation.response)


class _Clock:
    """Times one generation, for the metrics and the request's trace."""

    def __init__(self, metrics: Metrics, caller: Caller, span: tracing.Span) -> None:
        self._metrics = metrics
        self._caller = caller
        self._started = time.perf_counter()
        self._latest: float | None = None  # when the last token came
        self._ended = False
        self.prompt_tokens = 0
        self.span = span

    def tokens(self, count: int) -> None:
        """More tokens have come."""
        now = time.perf_counter()
        if self._latest is None:
            self.span.event("first token")
            self._metrics.observe_first_token(now - self._started, prompt_tokens=self.prompt_tokens)
        seconds = None if self._latest is None else now - self._latest
        self._metrics.observe_tokens(count, seconds=seconds)
        self._latest = now

    def done(self, generation: Generation) -> None:
        """The response is finished."""
        self._ended = True
        seconds, reason = time.perf_counter() - self._started, generation.finish_reason
        self._metrics.observe_generation(seconds=seconds, finish_reason=reason)
        self.span.set(
            {
                "gen_ai.response.id": generation.id,
                "gen_ai.response.finish_reasons": [reason],
                "gen_ai.usage.input_tokens": generation.prompt_tokens,
                "gen_ai.usage.output_tokens": len(generation.response_ids),
            }
        )
        self.span.end()

    def refused(self, error: Exception) -> None:
        """It was not let in, which no metric of generations counts."""
        self._ended = True
        self.span.fail(type(error).__qualname__)
        self.span.end()

    def aborted(self, error: BaseException | None = None) -> None:
        """The generation ends without a reply, unless it has ended already."""
        if not self._ended:
            self._ended = True
            reason = self._reason(error)
            self._metrics.observe_abort(reason=reason)
            self.span.fail(reason)
            self.span.end()

    def _reason(self, error: BaseException | None) -> Aborted:
        if Departure.STOPPING in self._caller.departures:
            return "stopping"
        return "gone" if error is None or isinstance(error, _LEFT) else "failed"
