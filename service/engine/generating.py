"""A generation on its way: ids from the batch become text, and in the end a record."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, aclosing, closing

from at2.tasks import ContextAttributionTask, ThoughtSources
from at2.text.decoding import TextStream
from service.caller import Caller, Departure
from service.engine.remote import RemoteStream
from service.engine.requests import Answer
from service.engine.stopping import StopFinder
from service.engine.token_stream import TokenStream
from service.failures import DeadlineError
from service.records import FinishReason, Generation, Prompt


class Generating:
    """The text of a response as it is written. Iterate over it once, on the event loop.

    The pieces joined are the response; afterwards `answer` has the rest. A response whose caller's
    time is over ends there, and one that comes to a stop text before it. When it ends it gives up
    its place in the batch, and when it is closed that among the requests: `close` it in any case.

    Args:
        task: the task whose prompt is answered, and which gets the response.
        prompt: the same as the caller gave it.
        room: done when there is room for it in the batch.
        begin: puts it there; ids come from what it returns, or text from another server.
        model: fingerprint of the model.
        end_ids: ids that end a response and are not shown.
        caller: who waits for it.
        place: what is given up when it is closed.
        work: the part of it that is given up as soon as nothing more is written.
        on_tokens: called with the number of new ids whenever some have come.
        stop: texts before which the response ends.
    """

    def __init__(
        self,
        task: ContextAttributionTask,
        prompt: Prompt,
        room: "asyncio.Future[None]",
        begin: Callable[[], TokenStream | RemoteStream],
        *,
        model: str,
        end_ids: frozenset[int],
        caller: Caller,
        place: ExitStack,
        work: ExitStack,
        on_tokens: Callable[[int], None],
        stop: Sequence[str] = (),
    ) -> None:
        self._task = task
        self.prompt = prompt
        self._room = room
        self._begin = begin
        self._tokens: TokenStream | RemoteStream | None = None
        self._model = model
        self._end_ids = end_ids
        self.caller = caller
        self._place = place
        self._work = work
        self._on_tokens = on_tokens
        self._late: DeadlineError | None = None
        self._answer: Answer | None = None
        self._ids: list[int] = []
        self._texts: list[str] = []  # in place of ids, from a server that gives none
        self._stops = StopFinder(stop)
        self._text = TextStream(task.tokenizer, task.input_ids)
        self.id = f"gen-{uuid.uuid4().hex}"
        self.prompt_tokens = len(task.input_ids)
        work.enter_context(caller.listening(self._when_left))

    def _when_left(self, why: Departure) -> None:
        """End what is made for a caller who is late. One who is gone closes this."""
        if why is not Departure.LATE:
            return
        self._late = DeadlineError(self.caller.seconds)
        if self._tokens is not None:
            self._tokens.close()
            self._tokens.fail(self._late)
        elif not self._room.done():
            self._room.set_exception(self._late)

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            await self._room
            if self._late is not None:
                raise self._late
            self._tokens = self._begin()
            async with aclosing(aiter(self._tokens)) as pieces:
                async for new in pieces:
                    delta = self._take(new)
                    if delta:
                        yield delta
                    if self._stops.found:
                        break
        except DeadlineError:
            if not self._ids and not self._texts:
                raise
        else:
            self._late = None  # all of it was there
        self._work.close()  # whoever is next need not wait for what follows
        delta = self._stops.step(self._text.finish()) + self._stops.finish()
        if delta:
            yield delta
        self._answer = await asyncio.to_thread(self.so_far)

    def _take(self, new: list[int] | str) -> str:
        """Take new ids, or new text, up to a stop text; returns what they add to the response."""
        if isinstance(new, str):
            self._on_tokens(1)  # or so
            self._texts.append(new)
            return self._stops.step(new)
        self._on_tokens(len(new))
        delta = ""
        for token_id in new:
            self._ids.append(token_id)
            if token_id not in self._end_ids:
                delta += self._stops.step(self._text.step(token_id))
            if self._stops.found:
                break
        return delta

    def so_far(self) -> Answer:
        """What is written as an answer, as if it ended here. In any thread, while nobody iterates;
        the next call changes the task of the answer."""
        task, ids, text = self._task, self._ids, "".join(self._texts)
        end = self._stops.length if self._stops.found else None
        if text:
            task.set_generation(text[:end])
            ids = task.generation_ids
        else:
            task.set_generation_ids(ids, end)
        whole, response = task.generation, task.target
        reason: FinishReason = "length" if self._late is None else "deadline"
        told = None if self._tokens is None else self._tokens.finish_reason
        ended = self._stops.found or bool(ids and ids[-1] in self._end_ids)
        generation = Generation(
            id=self.id,
            model=self._model,
            created=int(time.time()),
            prompt=self.prompt,
            source_type=task.source_type,
            prompt_tokens=task.generation_token_start,
            response_ids=tuple(ids),
            response=response,
            finish_reason="stop" if ended else told or reason,
            encoded=bool(text),
            before=whole[: len(whole) - len(response)],
            thoughts=task.thought_range if isinstance(task, ThoughtSources) else None,
        )
        recorder = None if self._tokens is None else self._tokens.recorder
        first = task.generation_token_start
        scores = None if recorder is None else recorder.scores((first, first + len(ids)))
        return Answer(generation, task.source_spans, task.statements, scores, task)

    @property
    def answer(self) -> Answer:
        """The whole answer, once the iteration has ended."""
        if self._answer is None:
            raise RuntimeError("the response is not finished")
        return self._answer

    async def finished(self) -> Answer:
        """The whole answer, without its pieces; closes it."""
        with closing(self):
            async for _ in self:
                pass
        return self.answer

    def close(self) -> None:
        """Stop what is not finished and give up all places. Safe to call more than once."""
        self._place.close()
