"""What callers get. Characters are Unicode code points; ranges are half-open."""

from typing import Literal

from pydantic import BaseModel, Field

from service.citation_schemas import SUPPORT, VERDICT, CohereCitation, TextBlock, Verdict
from service.field_types import Method, SourceKind
from service.request_schemas import Message


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
