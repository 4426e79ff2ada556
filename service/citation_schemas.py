"""Citations as they go over the wire: ours, Anthropic's and Cohere's. Characters are Unicode code
points; ranges are half-open."""

from typing import Literal

from pydantic import BaseModel, Field

Verdict = Literal["supported", "weak", "from memory"]

SUPPORT = (
    "What the context adds to the log-probability of the text, in nats a token: with all sources "
    "less without any."
)
VERDICT = "What `support` says about this model; null where that is not known, see /info."

CitationFormat = Literal["anthropic", "cohere"]


class CitedSource(BaseModel):
    """A source that a statement rests on: `text` is characters `start` to `end` of it."""

    document: int = Field(description="Place of the document, or of the message, from 0.")
    document_id: str | None
    document_title: str | None = Field(description="Its title, or the role of the message.")
    start: int
    end: int
    text: str
    score: float = Field(description="Without a unit; compares the sources of one statement.")


class Annotation(BaseModel):
    """A statement, characters `start` to `end` of the content, and the sources that it cites."""

    type: Literal["citation"]
    start: int
    end: int
    text: str
    sources: list[CitedSource] = Field(description="Best first; none where nothing stands out.")


class MeasuredAnnotation(Annotation):
    """The same, and whether the context made the model say the statement."""

    support: float = Field(description=SUPPORT)
    verdict: Verdict | None = Field(description=VERDICT)


class CharLocation(BaseModel):
    """A citation of Anthropic's: characters of a document."""

    type: Literal["char_location"]
    cited_text: str
    document_index: int
    document_title: str | None
    start_char_index: int
    end_char_index: int
    file_id: None


class TextBlock(BaseModel):
    """A part of the response as Anthropic has it; all parts joined are the response."""

    type: Literal["text"]
    text: str
    citations: list[CharLocation] | None = Field(
        description="Best first; null for what cites nothing."
    )


class CitedDocument(BaseModel):
    """What a citation of Cohere's says of a document."""

    id: str
    title: str | None
    text: str = Field(description="The part that is cited.")
    start: int = Field(description="Where this part begins in the document.")
    end: int


class DocumentSource(BaseModel):
    """A source of Cohere's; documents without an id are `doc:0`, `doc:1`, …"""

    type: Literal["document"]
    id: str
    document: CitedDocument


class CohereCitation(BaseModel):
    """A citation of Cohere's: characters of the response, and the documents that they rest on."""

    type: Literal["TEXT_CONTENT"]
    content_index: Literal[0]
    start: int
    end: int
    text: str
    sources: list[DocumentSource] = Field(description="Best first.")
    document_ids: list[str] = Field(description="Of the same, each once.")
