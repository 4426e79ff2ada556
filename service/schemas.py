"""What goes over the wire. Characters are Unicode code points; ranges are half-open."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from service.citation_schemas import (
    SUPPORT,
    VERDICT,
    CitationFormat,
    CohereCitation,
    TextBlock,
    Verdict,
)

SourceType = Literal["document", "paragraph", "sentence", "word", "token"]
Method = Literal[
    "at2",
    "average_attention",
    "contrastive_attention",
    "fusion",
    "leave_one_out",
    "context_cite",
    "gradient_norm",
    "input_x_gradient",
    "random",
    "position",
    "lexical_overlap",
]

SourceKind = Literal["document", "message", "thoughts"]

DEFAULT_TOP_K = 8

DEFAULT_MIN_SHARE = 0.2
"""The library's, which this module does not load."""

MAX_HOPS = 16
"""The library's."""

MAX_DOCUMENT_ID = 256
"""Characters: every source of a document repeats its id."""

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
"""Each is looked for at every new token."""

MAX_ITEMS = 10_000
"""Of any list in a request; what a server's settings allow is less."""

EXAMPLE: dict[str, JsonValue] = {
    "context": "Charlotte Bennett lives in Lisbon. Omar Whitfield plays the cello.",
    "query": "Where does Charlotte Bennett live?",
}
"""What the OpenAPI document shows, and /docs offers to send."""


def encodable(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"character {error.start} is half of a surrogate pair, which is no text"
        ) from None
    return value


_Text = Annotated[str, AfterValidator(encodable)]
_NonEmpty = Annotated[str, StringConstraints(min_length=1), AfterValidator(encodable)]
_NonBlank = Annotated[
    str, StringConstraints(min_length=1, pattern=r"\S"), AfterValidator(encodable)
]
_DocumentId = Annotated[
    str, StringConstraints(max_length=MAX_DOCUMENT_ID), AfterValidator(encodable)
]

T = TypeVar("T")

_List = Annotated[list[T], Field(max_length=MAX_ITEMS, fail_fast=True)]
"""One that is read no further than to the first item that is wrong."""


MinShare = Annotated[
    float,
    Field(
        ge=0.0,
        le=1.0,
        allow_inf_nan=False,
        description="A source is `cited` if it has at least this share of all positive scores.",
    ),
]


def _listed(value: object) -> object:
    """One text as a list; an empty one, which stops nothing, as none."""
    if isinstance(value, str):
        return [value] if value else []
    return value


_StopText = Annotated[
    str,
    StringConstraints(min_length=1, max_length=MAX_STOP_CHARACTERS),
    AfterValidator(encodable),
]
_STOP_SCHEMA = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}

Stop = Annotated[
    list[_StopText],
    Field(max_length=MAX_STOPS, fail_fast=True),
    BeforeValidator(_listed),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "maxLength": MAX_STOP_CHARACTERS},
                {"type": "array", "maxItems": MAX_STOPS, "items": _STOP_SCHEMA},
            ],
            "description": "A text or several: the response ends before the first that it comes "
            "to, which is not in it.",
        }
    ),
]
"""Texts before which a response ends."""


class RequestModel(BaseModel):
    """What a caller sends: unknown fields are refused, and `"1"`, 1.0 and true are no integers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Document(RequestModel):
    """One document of the caller's."""

    id: _DocumentId | None = Field(
        default=None, description="The caller's name for it, repeated in sources."
    )
    title: _Text | None = Field(default=None, description="Shown to the model above the text.")
    text: _NonBlank


class Message(RequestModel):
    """An earlier turn of the conversation; of role `tool` it is what a tool returned."""

    role: Literal["system", "user", "assistant", "tool"]
    content: _Text


SourceMessages = Annotated[
    Literal["all", "tool"] | _List[int],
    Field(
        description="Messages that are sources: all, those of role `tool`, or their numbers, "
        "from 0. By default none beside documents; without documents, all."
    ),
]


class _Prompt(RequestModel):
    context: _NonBlank | None = Field(default=None, description="The context, if it is one text.")
    documents: _List[Document] | None = Field(
        None, min_length=1, description="The context, if it is several texts."
    )
    query: _NonBlank | None = Field(
        default=None,
        description="May be left out without documents where the last message is of role `tool`.",
    )
    messages: _List[Message] = Field(default=[], description="Earlier turns, oldest first.")
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


class Source(BaseModel):
    """A piece of the context: `text` is characters `start` to `end` of its document."""

    index: int
    kind: SourceKind = Field(
        default="document", description="What it is a piece of; left out for documents."
    )
    document: int = Field(
        description="Place of the document in the request, from 0. Messages count on from there "
        "where some are sources, and without documents, where the query is the last; then the "
        "thoughts."
    )
    document_id: str | None = Field(description="The caller's id of the document.")
    start: int
    end: int
    text: str


class Statement(BaseModel):
    """A sentence of the response."""

    start: int
    end: int
    text: str


class Usage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int


class GenerateReply(BaseModel):
    """A generation: the response, and everything it can be attributed to."""

    id: str = Field(description="For POST /attribute, until `expires`.")
    model: str
    created: int = Field(description="Seconds since 1970.")
    expires: int | None = Field(
        description="When the server forgets it, at the latest; null if it is not kept, "
        "because nothing is or because it could not be written."
    )
    response: str
    thoughts: str | None = Field(
        default=None,
        description="What the model thought before; left out unless thoughts are sources.",
    )
    finish_reason: Literal["stop", "length", "deadline"] = Field(
        description="The response ended, or was cut off at its limit of tokens or of time."
    )
    usage: Usage
    sources: list[Source]
    statements: list[Statement]
    encoded: bool = Field(
        default=False,
        description="True if the response came from another server as text, without its token ids: "
        "it was encoded again, and its tokens may not be those that were written. Else left out.",
    )


class DeletionReply(BaseModel):
    """A generation that is forgotten before its text is gone from the disk."""

    id: str
    erased: Literal[False] = Field(description="Whether its text is gone from the disk.")


class SourceDocument(BaseModel):
    """A document; or where they are sources, a turn of a chat, titled by its role, or thoughts."""

    id: str | None
    title: str | None
    text: str


class PromptReply(BaseModel):
    """What a generation was asked."""

    documents: list[SourceDocument] = Field(
        description="`document` of a source counts these, from 0."
    )
    query: str
    messages: list[Message]


class Delta(BaseModel):
    """An event of a stream: the response goes on. All texts joined are the response."""

    type: Literal["delta"]
    text: str


class Done(BaseModel):
    """The last event of a stream that ended well; `data: [DONE]` follows."""

    type: Literal["done"]
    generation: GenerateReply


class Span(RequestModel):
    """Characters of the response."""

    start: int = Field(ge=0)
    end: int = Field(ge=1)


class AttributeRequest(_Prompt):
    """What to attribute: a generation by `id`, or a context, query and response."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [EXAMPLE | {"response": "She lives in Lisbon."}]}
    )

    id: _Text | None = Field(default=None, description="From POST /generate.")
    response: _NonEmpty | None = Field(default=None, description="A response written elsewhere.")
    thoughts: _Text | None = Field(
        default=None,
        description="What was thought before that response, without markers: a source, too.",
    )
    source_type: SourceType | None = Field(
        default=None, description="By default as in /generate, or `sentence` without an id."
    )
    start: int | None = Field(default=None, ge=0, description="Start of one span of the response.")
    end: int | None = Field(default=None, ge=1, description="End of one span of the response.")
    spans: _List[Span] | None = Field(
        default=None, min_length=1, description="Several spans; see /info for how many."
    )
    quote: _NonEmpty | None = Field(
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
    retrieval_scores: _List[Annotated[float, Field(allow_inf_nan=False)]] | None = Field(
        default=None,
        min_length=1,
        description="For `fusion`: what a retriever gave each document, or each source; higher is "
        "better.",
    )
    estimator: _Text | None = Field(
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


class ScoredSource(Source):
    """A source with its place in the ranking, from 1, and its score."""

    rank: int
    score: float
    cited: bool = Field(
        description="Whether it counts: it has at least `min_share` of the positive scores of all "
        "sources, listed here or not."
    )


class VerifiedSource(BaseModel):
    """What hiding one source does. Shares count positive values only; null if there are none."""

    index: int
    rank: int
    score: float
    drop: float = Field(description="Loss of the span's log-probability without it, in nats.")
    predicted_share: float | None = Field(description="Its score's share of those listed here.")
    measured_share: float | None = Field(description="Its drop's share of those listed here.")


class VerifiedCitations(BaseModel):
    """What the cited sources of a span are worth together. Shares are of `drop_all`, and null
    unless that is positive."""

    sources: list[int] = Field(description="Their `index`, best first.")
    drop: float = Field(description="Loss without them, in nats: whether they are needed.")
    log_prob_alone: float = Field(
        description="Of the span with them and no other source, in nats: whether they are enough."
    )
    needed_share: float | None = Field(description="`drop` as a share.")
    held_share: float | None = Field(
        description="What they alone are worth as a share; above 1 where others speak against it."
    )


class Verification(BaseModel):
    """What the sources of a span are really worth, measured by hiding them."""

    num_tokens: int = Field(description="Of the span; a drop divided by it is per token.")
    log_prob: float = Field(description="Of the span with all sources, in nats.")
    sources: list[VerifiedSource]
    drop_together: float = Field(description="Loss without all sources listed here, in nats.")
    drop_all: float = Field(description="Loss without any source of the context, in nats.")
    predicted_share_together: float | None = Field(
        description="Share of all positive scores that those listed here have."
    )
    measured_share_together: float | None = Field(
        description="`drop_together / drop_all`; null unless `drop_all` is positive."
    )
    rank_correlation: float | None = Field(
        description="Spearman's, between scores and drops of the sources listed here."
    )
    cited: VerifiedCitations


class SpanAttribution(BaseModel):
    """The sources of one span, best first."""

    start: int
    end: int
    text: str
    attributed_text: str = Field(
        description="What was in fact attributed: the tokens that overlap the span."
    )
    sources: list[ScoredSource]
    verification: Verification | None = Field(
        default=None, description="Only there if it was asked for."
    )
    support: float | None = Field(
        default=None,
        description=f"{SUPPORT} Only there if it was asked for.",
    )
    verdict: Verdict | None = Field(
        default=None,
        description=f"{VERDICT} Only there if it was asked for.",
    )


class AttributeReply(BaseModel):
    """One attribution per span."""

    id: str | None
    model: str
    method: Method
    estimator: str | None
    attributions: list[SpanAttribution]
    content: list[TextBlock] | None = Field(
        default=None, description="The response with its citations, as Anthropic has them."
    )
    citations: list[CohereCitation] | None = Field(
        default=None, description="The citations of the response, as Cohere has them."
    )


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The shape of every error."""

    error: ErrorBody
