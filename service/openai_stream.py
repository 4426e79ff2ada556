"""A completion in chunks, as OpenAI's clients read them: text as it is written, and the citations
of each statement behind it. Where support is asked for, which takes passes over the model, all
annotations come once more with it at the end."""

import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

from at2.errors import InputError
from at2.evaluation.support import Support
from at2.methods import Attribution
from service.citation_formats import Citations
from service.citation_schemas import CitationFormat
from service.engine import Question
from service.errors import event
from service.failures import ServerFailure
from service.generations import Writing
from service.openai_schemas import ChatUsage, Delta, FinishReason
from service.openai_translation import Cited, finish_reason_of, usage_of
from service.statement_ends import LOOK_AHEAD, StatementEnds


class ChunkStream:
    """The chunks of one completion.

    Args:
        writing: the response as it is written.
        model: the name of what writes it.
        question: how its statements are cited; None for no citations.
        shape: whose shape citations have; None for ours.
        attribute: gives the sources of all statements when it is finished.
        usage: whether a last chunk has the numbers of tokens.
    """

    def __init__(
        self,
        writing: Writing,
        model: str,
        question: Question | None,
        shape: CitationFormat | None,
        attribute: Callable[[Writing], Awaitable[Cited]],
        *,
        usage: bool,
    ) -> None:
        self._writing = writing
        self._model = model
        # no passes on the way: they would hold up the text
        self._question = None if question is None else replace(question, support=False)
        self._attribute = attribute
        self._usage = usage
        self._created = int(time.time())
        self._text = ""
        self._ends = StatementEnds()
        self._cited: set[tuple[int, int]] = set()
        self._citations = Citations(shape, writing.prompt.source_documents)

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The chunks as JSON objects. An error is the last one."""
        try:
            yield self._chunk(Delta(role="assistant", content=""))
            async for text in self._writing:
                yield self._chunk(Delta(content=text))
                self._text += text
                for found in await self._complete():
                    for chunk in self._cite(found):
                        yield chunk
            answer = self._writing.answer
            whole = await self._attribute(self._writing)
            findings = whole.findings
            for one in [] if findings is None else findings.spans:
                found = one.attribution
                if one.support is not None or (found.start, found.end) not in self._cited:
                    for chunk in self._cite(found, one.support):
                        yield chunk
            rest = None if findings is None else self._citations.of_rest(self._text)
            if rest:
                yield self._chunk(Delta(annotations=rest))
            last = self._chunk(Delta(), finish_reason_of(answer))
            if whole.error is not None:
                last["attribution_error"] = whole.error.model_dump()
            yield last
            if self._usage:
                yield self._with([], usage_of(answer))
        except Exception as error:  # the status is sent: it can only be told in the stream
            yield event(error)

    async def _complete(self) -> list[Attribution]:
        """Statements that are complete and have not been cited."""
        if self._question is None or not self._ends.step(self._text):
            return []
        try:
            findings = await self._writing.attribute_so_far(self._question)
        except (InputError, ServerFailure):
            findings = None
        if findings is None:
            self._question = None  # they come at the end, or the reason why they do not
            return []
        written = findings.attributions
        return [
            found
            for found, following in itertools.pairwise(written)
            if following.start + LOOK_AHEAD <= len(self._text)
            and (found.start, found.end) not in self._cited
        ]

    def _cite(self, found: Attribution, support: Support | None = None) -> list[dict[str, Any]]:
        """The chunk with a statement's citations, if there is anything to say."""
        self._cited.add((found.start, found.end))
        cited = self._citations.of_statement(found, self._text, support)
        return [self._chunk(Delta(annotations=cited))] if cited else []

    def _chunk(self, delta: Delta, finish_reason: FinishReason | None = None) -> dict[str, Any]:
        added = {name: value for name, value in delta.model_dump().items() if value is not None}
        return self._with([{"index": 0, "delta": added, "finish_reason": finish_reason}])

    def _with(
        self, choices: list[dict[str, Any]], usage: ChatUsage | None = None
    ) -> dict[str, Any]:
        chunk = {
            "id": self._writing.id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }
        if self._usage:
            chunk["usage"] = None if usage is None else usage.model_dump()
        return chunk
