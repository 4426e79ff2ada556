"""What a record is, how it is written, and what a store offers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from pydantic import TypeAdapter

from at2.tasks.spans import Document
from service.field_types import SourceKind

FinishReason = Literal["stop", "length", "deadline"]


@dataclass(frozen=True)
class Prompt:
    """The context and query of a request, as the caller gave them.

    Attributes:
        documents: the context; none where the sources are turns.
        query: the question, or the last turn.
        messages: earlier turns as (role, content), oldest first.
        source_messages: numbers of the turns that are sources, the query being the last where there
            are no documents; None where none is.
        source_thoughts: whether the model's own thoughts are sources, too.
        role: of the last turn.
    """

    documents: tuple[Document, ...]
    query: str
    messages: tuple[tuple[str, str], ...]
    source_messages: tuple[int, ...] | None = None
    source_thoughts: bool = False
    role: str = "user"

    @property
    def source_documents(self) -> tuple[Document, ...]:
        """What `document` of a source counts: documents, and then, where some are sources, the
        turns, titled by their roles; without documents the last is the query."""
        if self.source_messages is None:
            return self.documents
        turns = self.messages if self.documents else (*self.messages, (self.role, self.query))
        return (*self.documents, *(Document(content, title=role) for role, content in turns))

    def kind_of(self, document: int) -> SourceKind:
        """What a document of this number is; thoughts come last."""
        if document < len(self.documents):
            return "document"
        return "message" if document < len(self.source_documents) else "thoughts"

    @property
    def texts(self) -> Iterator[str]:
        """Everything in it that the model is shown."""
        for document in self.documents:
            yield document.title or ""
            yield document.text
        yield self.query
        for _, content in self.messages:
            yield content

    @property
    def characters(self) -> int:
        """Of all these texts together."""
        return sum(map(len, self.texts))


@dataclass(frozen=True)
class Generation:
    """A response with all that is needed to attribute it later.

    Attributes:
        id: its name, hard to guess.
        model: fingerprint of the model whose tokens these are; empty if it is not known.
        created: seconds since 1970.
        prompt: what was asked.
        source_type: what the context is cut into unless asked otherwise.
        prompt_tokens: length of the prompt.
        response_ids: ids of the response, with the one that ended it, or those of a stop text.
        response: the same as text, up to a stop text, and without thoughts that are sources.
        finish_reason: why it ended.
        encoded: whether the response came as text, from a server that gives no ids, and the ids are
            those of that text.
        before: where thoughts are sources, what the model wrote before the response: the thoughts
            with their markers.
        thoughts: where thoughts are sources, their characters in `before`.
    """

    id: str
    model: str
    created: int
    prompt: Prompt
    source_type: str
    prompt_tokens: int
    response_ids: tuple[int, ...]
    response: str
    finish_reason: FinishReason
    encoded: bool = False
    before: str = ""
    thoughts: tuple[int, int] | None = None

    @property
    def source_documents(self) -> tuple[Document, ...]:
        """What `document` of a source counts: those of the prompt, and the thoughts."""
        documents = self.prompt.source_documents
        if self.thoughts is None:
            return documents
        return (*documents, thoughts_document(self.before[slice(*self.thoughts)]))

    def to_json(self) -> bytes:
        """The record as UTF-8. Requests with lone surrogates, which it cannot show, are refused."""
        return _GENERATIONS.dump_json(self)

    @classmethod
    def from_json(cls, data: bytes) -> "Generation":
        """The record that `to_json` wrote.

        Raises:
            ValueError: it is not one.
        """
        values = json.loads(data)
        if isinstance(values, dict):
            values.setdefault("model", "")  # older records have none
        return _GENERATIONS.validate_python(values)


_GENERATIONS = TypeAdapter(Generation)


def thoughts_document(text: str) -> Document:
    """Thoughts as a document: the one after all others."""
    return Document(text, title="thoughts")


@dataclass(frozen=True)
class Kept:
    """A generation in a store, and when it goes: seconds since 1970."""

    generation: Generation
    expires: int


class RecordStore(Protocol):
    """Keeps generations by id for a time.

    A generation belongs to its owner, a name that means nothing here; for anybody else it is not
    there. One without an owner, the empty name, is everybody's.

    Methods raise `StoreError` where the place of the records cannot be read or written, and `get`
    raises `DamagedRecordError` where the record makes no sense.
    """

    async def put(self, generation: Generation, owner: str = "") -> int | None:
        """Keep a generation. When it goes, in seconds since 1970; None if it is not kept."""

    async def get(self, generation_id: str, owner: str = "") -> Kept | None:
        """The generation of this id, if it is still kept."""

    async def delete(self, generation_id: str, owner: str = "") -> bool:
        """Forget a generation; whether there was one."""

    @property
    def erased(self) -> bool:
        """Whether all that was forgotten is gone from the place of the records, too."""

    async def sweep(self) -> list[str]:
        """Forget what has expired; the ids that went, for whatever reason, since the last call."""

    async def close(self) -> None:
        """Let go of the place; nothing may be called afterwards."""


@runtime_checkable
class ScoreStore(Protocol):
    """Keeps the scores of generations beside them, as bytes that mean nothing here.

    They go with their generation, so whoever may ask for that may ask for them.
    """

    async def put_scores(self, generation_id: str, scores: bytes) -> None:
        """Keep scores of a generation that is kept, or do not, where there is no room."""

    async def get_scores(self, generation_id: str) -> bytes | None:
        """The scores of a generation, if they are kept.

        Raises:
            StoreError: they cannot be read.
        """
