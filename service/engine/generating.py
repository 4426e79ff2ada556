"""A generation on its way: ids from the batch become text, and in the end a record."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack

from at2.tasks import DocumentsContextAttributionTask
from at2.text.decoding import TextStream
from service.engine.batching import TokenStream
from service.engine.requests import Answer
from service.failures import DeadlineError
from service.records import Generation, Prompt


class Generating:
    """The text of a response as it is written. Iterate over it once, on the event loop.

    The pieces joined are the response; afterwards `answer` has the rest. `close` it in any case: it
    gives up its place.

    Args:
        task: the task whose prompt is answered, and which gets the response.
        prompt: the same as the caller gave it.
        tokens: ids as they come.
        model: fingerprint of the model.
        end_ids: ids that end a response and are not shown.
        deadline: by the event loop's clock.
        late: what it fails with after that.
        place: what is given up at the end.
    """

    def __init__(
        self,
        task: DocumentsContextAttributionTask,
        prompt: Prompt,
        tokens: TokenStream,
        *,
        model: str,
        end_ids: frozenset[int],
        deadline: float,
        late: DeadlineError,
        place: ExitStack,
    ) -> None:
        self._task = task
        self._prompt = prompt
        self._tokens = tokens
        self._model = model
        self._end_ids = end_ids
        self._place = place
        self._answer: Answer | None = None
        self._deadline = asyncio.get_running_loop().call_at(deadline, self._give_up, late)

    def _give_up(self, late: DeadlineError) -> None:
        self._tokens.close()
        self._tokens.fail(late)

    async def __aiter__(self) -> AsyncIterator[str]:
        ids: list[int] = []
        text = TextStream(self._task.tokenizer, self._task.input_ids)
        async for new in self._tokens:
            ids += new
            delta = "".join(
                text.step(token_id) for token_id in new if token_id not in self._end_ids
            )
            if delta:
                yield delta
        delta = text.finish()
        if delta:
            yield delta
        self._answer = await asyncio.to_thread(self._finish, ids)

    def _finish(self, ids: list[int]) -> Answer:
        task = self._task
        task.set_generation_ids(ids)
        generation = Generation(
            id=f"gen-{uuid.uuid4().hex}",
            model=self._model,
            created=int(time.time()),
            prompt=self._prompt,
            source_type=task.source_type,
            prompt_tokens=task.generation_token_start,
            response_ids=tuple(ids),
            response=task.generation,
            finish_reason="stop" if ids and ids[-1] in self._end_ids else "length",
        )
        return Answer(generation, task.source_spans, task.statements)

    @property
    def answer(self) -> Answer:
        """The whole answer, once the iteration has ended."""
        if self._answer is None:
            raise RuntimeError("the response is not finished")
        return self._answer

    async def finished(self) -> Answer:
        """The whole answer, without its pieces."""
        async for _ in self:
            pass
        return self.answer

    def close(self) -> None:
        """Stop what is not finished and give up the place. Safe to call more than once."""
        self._deadline.cancel()
        self._tokens.close()
        self._place.close()
