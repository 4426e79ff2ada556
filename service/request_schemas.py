"""What callers send. Characters are Unicode code points; ranges are half-open."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.citation_schemas import CitationFormat
from service.field_types import (
    DEFAULT_MIN_SHARE,
    DEFAULT_TOP_K,
    EXAMPLE,
    MAX_HOPS,
    BoundedList,
    DocumentId,
    Method,
    MinShare,
    NonBlankText,
    NonEmptyText,
    SourceMessages,
    SourceType,
    Stop,
    Text,
)


class RequestModel(BaseModel):
    """What a caller sends: unknown fields are refused, and `"1"`, 1.0 and true are no integers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Document(RequestModel):
    """One document of the caller's."""

    id: DocumentId | None = Field(
        default=None, description="The caller's name for it, repeated in sources."
    )
    title: Text | None = Field(default=None, description="Shown to the model above the text.")
    text: NonBlankText


class Message(RequestModel):
    """An earlier turn of the conversation; of role `tool` it is what a tool returned."""

    role: Literal["system", "user", "assistant", "tool"]
    content: Text


class _Prompt(RequestModel):
    context: NonBlankText | None = Field(
        default=None, description="The context, if it is one text."
    )
    documents: BoundedList[Document] | None = Field(
        None, min_length=1, description="The context, if it is several texts."
    )
    query: NonBlankText | None = Field(
        default=None,
        description="May be left out without documents where the last message is of role `tool`.",
    )
    messages: BoundedList[Message] = Field(default=[], description="Earlier turns, oldest first.")
    source_messages: SourceMessages | None = None

    @property
    def answers_tool(self) -> bool:
        """Whether it is a tool's result that is answered, and no query."""
        return self.query is None and bool(self.messages) and self.messages[-1].role == "tool"

    def _check_context(self, *, thoughts: bool) -> None:
        """Args: thoughts: whether they are sources."""
        if self.context is not None and self.documents is not None:
            raise ValueError("give either context or documents")
        alone = self.context is None and self.documents is None
        if self.query is None and not (alone and self.answers_tool):
            raise ValueError("query is missing")
        if self.source_messages == "tool" and all(m.role != "tool" for m in self.messages):
            raise ValueError("source_messages is tool, but no message is of that role")
        if alone and not thoughts and not (self.messages and self.source_messages != []):
            raise ValueError("give either context or documents, or messages that are sources")


class GenerateRequest(_Prompt):
    """What to answer, and how."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    source_type: SourceType = Field(default="sentence", description="What the context is cut into.")
    max_new_tokens: int | None = Field(
        default=None, ge=1, description="By default 256, or less if the model has no room for them."
    )
    temperature: float = Field(
        default=0.0, ge=0.0, le=5.0, allow_inf_nan=False, description="0 is greedy decoding."
    )
    top_p: float = Field(default=1.0, gt=0.0, le=1.0, allow_inf_nan=False)
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Makes sampling repeatable; ignored when greedy."
    )
    stop: Stop | None = None
    source_thoughts: bool = Field(
        default=False,
        description="What the model thinks before its response is a source, and no part of it.",
    )
    stream: bool = Field(
        default=False, description="Reply with server-sent events as the response is written."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        self._check_context(thoughts=self.source_thoughts)
        return self


class Span(RequestModel):
    """Characters of the response."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)


class AttributeRequest(_Prompt):
    """What to attribute: a generation by `id`, or a context, query and response."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [EXAMPLE | {"response": "She lives in Lisbon."}]}
    )

    id: Text | None = Field(default=None, description="From POST /generate.")
    response: NonEmptyText | None = Field(default=None, description="A response written elsewhere.")
    thoughts: Text | None = Field(
        default=None,
        description="What was thought before that response, without markers: a source, too.",
    )
    source_type: SourceType | None = Field(
        default=None, description="By default as in /generate, or `sentence` without an id."
    )
    start: int | None = Field(default=None, ge=0, description="Start of one span of the response.")
    end: int | None = Field(default=None, ge=1, description="End of one span of the response.")
    spans: BoundedList[Span] | None = Field(
        default=None, min_length=1, description="Several spans; see /info for how many."
    )
    quote: NonEmptyText | None = Field(
        default=None, description="Instead, what one span says, letter by letter."
    )
    occurrence: int | None = Field(
        default=None, ge=0, description="Which of the places that say `quote`, from 0."
    )
    split_by: Literal["sentence"] | None = Field(
        default=None, description="Attribute every statement of the response."
    )
    top_k: int = Field(
        default=DEFAULT_TOP_K, ge=1, le=10_000, description="The most sources a span gets."
    )
    min_share: MinShare = DEFAULT_MIN_SHARE
    method: Method | None = Field(
        default=None,
        description="By default `at2`, or `contrastive_attention` where the server has no "
        "estimator.",
    )
    retrieval_scores: BoundedList[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        default=None,
        min_length=1,
        description="For `fusion`: what a retriever gave each document, or each source; higher is "
        "better.",
    )
    estimator: Text | None = Field(
        default=None, description="Name of a loaded estimator, see /info; by default the first."
    )
    hops: int = Field(
        default=0,
        ge=0,
        le=MAX_HOPS,
        description="Carry on what a span owes to thoughts and to statements before it to the "
        "sources behind these, over so many of them; for methods that weigh attention.",
    )
    verify: bool = Field(
        default=False,
        description="Really hide the sources found, and measure what the span loses.",
    )
    support: bool = Field(
        default=False,
        description="Measure whether the context made the model say it: two passes for all spans.",
    )

    citation_format: CitationFormat | None = Field(
        default=None,
        description="Beside the attributions, citations in this shape; needs `split_by`.",
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.citation_format is not None and self.split_by is None:
            raise ValueError("citation_format needs split_by: sentence")
        if self.id is None:
            self._check_context(thoughts=self.thoughts is not None)
            if self.response is None:
                raise ValueError("give either id or response")
        else:
            self._check_alone()
        one_span = self.start is not None or self.end is not None
        if one_span and (self.start is None or self.end is None):
            raise ValueError("a span needs both start and end")
        ways = (one_span, self.spans is not None, self.quote is not None, self.split_by is not None)
        if sum(ways) > 1:
            raise ValueError("give one of start and end, spans, quote, split_by")
        if self.occurrence is not None and self.quote is None:
            raise ValueError("occurrence needs quote")
        if self.retrieval_scores is not None and self.method != "fusion":
            raise ValueError("retrieval_scores need method fusion")
        return self

    def _check_alone(self) -> None:
        """Make sure that nothing of what a generation has already is given beside its id."""
        known = ("context", "documents", "query", "messages", "source_messages", "response")
        if any(getattr(self, name) for name in known) or self.thoughts is not None:
            raise ValueError(
                "with id, leave out context, documents, query, messages, source_messages, "
                "thoughts and response"
            )
