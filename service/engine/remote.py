"""Generation by an OpenAI-compatible server that the operator has, in place of the model here.

Stands in for the batcher. Responses are attributed here, on the same weights.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from at2.errors import InputError
from at2.model.paged import ScoreRecorder
from service.engine.batching import BatcherLoad
from service.engine.remote_api import Piece, RemoteApi, Wanted
from service.failures import EngineDownError, GeneratorError, ServerFailure
from service.records import FinishReason

logger = logging.getLogger("at2.service")


class RemoteStream:
    """One response as the server writes it. Iterate over it once, on the event loop.

    Iteration gives ids, or text where the server gives no ids, and ends with the response; it
    raises a `ServerFailure`, or an `InputError`, where there is none. `close` ends it early, and
    the connection with it.
    """

    recorder: ScoreRecorder | None = None

    def __init__(self, remote: "Remote", pieces: AsyncIterator[Piece]) -> None:
        self._events: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self.finish_reason: FinishReason | None = None
        self._pumping = asyncio.create_task(self._pump(pieces))
        self._pumping.add_done_callback(lambda _: remote.release(self))

    async def _pump(self, pieces: AsyncIterator[Piece]) -> None:
        try:
            async with aclosing(pieces):  # type: ignore[type-var]  # an iterator that is closed
                async for piece in pieces:
                    self._events.put_nowait(piece)
        except (ServerFailure, InputError) as error:
            self._events.put_nowait(error)
        except Exception:
            logger.exception("a reply of the generator was not understood")
            self._events.put_nowait(GeneratorError("gave a reply that makes no sense"))

    def fail(self, failure: ServerFailure) -> None:
        """End the iteration with a failure."""
        self._events.put_nowait(failure)

    def close(self) -> None:
        """Let the server stop writing what nobody waits for."""
        self._pumping.cancel()

    async def __aiter__(self) -> AsyncGenerator[list[int] | str, None]:
        kind: type | None = None
        while self.finish_reason is None:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            self.finish_reason = event.finish_reason
            if event.content:
                if not isinstance(event.content, kind or type(event.content)):
                    raise GeneratorError("gave the ids of a part of its response only")
                kind = type(event.content)
                yield event.content


class Remote:
    """Lets one server write all responses.

    Args:
        api: of the server.
        capacity: tokens of the longest sequence, prompt and response.
    """

    def __init__(self, api: RemoteApi, capacity: int) -> None:
        self.api = api
        self.capacity = capacity
        self._streams: set[RemoteStream] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    @property
    def alive(self) -> bool:
        """Whether the server may be asked. Whether it answers is found out by asking it."""
        return self._loop is not None and not self._closed

    @property
    def dead(self) -> bool:
        """Never: the server may come back."""
        return False

    @property
    def load(self) -> BatcherLoad:
        """What it is doing now; the cache is the server's own."""
        return BatcherLoad(len(self._streams), 0, 1)

    def start(self) -> None:
        """Begin; call it on the event loop."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """End all that runs, from any thread. Safe to call more than once."""
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        for stream in list(self._streams):
            stream.fail(EngineDownError("the server is stopping"))
            stream.close()
        self._ending = asyncio.create_task(self.api.close())

    def submit(self, wanted: Wanted) -> RemoteStream:
        """Begin a response; call it on the event loop.

        Raises:
            EngineDownError: the server here is stopping.
        """
        if not self.alive:
            raise EngineDownError()
        stream = RemoteStream(self, self.api.pieces(wanted))
        self._streams.add(stream)
        return stream

    def release(self, stream: RemoteStream) -> None:
        """Forget a stream that has ended."""
        self._streams.discard(stream)
