"""The ids of a response, from the thread that makes them to the event loop that reads them."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from typing import Any, Protocol

from at2.errors import is_out_of_memory
from at2.model.paged import ScoreRecorder
from service.failures import EngineDownError, NoMemoryError, ServerFailure
from service.records import FinishReason

logger = logging.getLogger("at2.service")


class Batch(Protocol):
    """What writes responses: the batcher or what stands in for it."""

    def release(self, stream: "TokenStream") -> bool: ...
    def forgive(self) -> None: ...
    def cancel(self, request_id: str) -> None: ...


class TokenStream:
    """The ids of one response, as they are made. Iterate over it once, on the event loop.

    Iteration ends with the response; it raises a `ServerFailure` where the response cannot be
    finished. `close` ends it early and frees its place in the batch.
    """

    def __init__(
        self,
        batch: Batch,
        request_id: str,
        tokens: int,
        recorder: ScoreRecorder | None = None,
        owner: str | None = None,
    ) -> None:
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[list[int] | ServerFailure | None] = asyncio.Queue()
        self._given = 0
        self.request_id = request_id
        self.tokens = tokens
        self.recorder = recorder
        self.owner = owner
        self.finish_reason: FinishReason | None = None  # the ids say it

    def receive(self, output: Any) -> None:
        """Take what the loop reports: all ids so far, and whether that was the end."""
        if output.error is not None:
            logger.error("a response cannot be finished: %s", output.error)
            self._end(NoMemoryError() if is_out_of_memory(output.error) else EngineDownError())
            return
        new = output.generated_tokens[self._given :]
        self._given += len(new)
        if new:
            self._events.put_nowait(list(new))
        if output.is_finished():
            self._end(None)

    def hand_over(self, output: Any) -> None:
        """`receive`; safe to call from any thread."""
        self._loop.call_soon_threadsafe(self.receive, output)

    def fail(self, failure: ServerFailure) -> None:
        """End the iteration with a failure; safe to call from any thread."""
        self._loop.call_soon_threadsafe(self._end, failure)

    def _end(self, failure: ServerFailure | None) -> None:
        self._batch.release(self)
        if failure is None:
            self._batch.forgive()
        self._events.put_nowait(failure)

    def close(self) -> None:
        """Stop making ids that nobody waits for."""
        if self._batch.release(self):
            self._batch.cancel(self.request_id)

    async def __aiter__(self) -> AsyncGenerator[list[int], None]:
        while True:
            event = await self._events.get()
            if event is None:
                return
            if isinstance(event, ServerFailure):
                raise event
            yield event
