"""From what goes over the wire to what the engine is asked."""

from at2.tasks import Document
from service.engine import Quote, Spans
from service.records import Prompt
from service.schemas import AttributeRequest, GenerateRequest


def prompt_of(request: GenerateRequest | AttributeRequest) -> Prompt:
    """The prompt of a request; a single context is one document without a title."""
    documents = (
        (Document(text=request.context),)
        if request.context is not None
        else tuple(Document(d.text, d.id, d.title) for d in request.documents or ())
    )
    messages = tuple((m.role, m.content) for m in request.messages)
    return Prompt(documents, request.query or "", messages)


def spans_of(request: AttributeRequest) -> Spans:
    """Which characters of the response a request is about."""
    if request.spans is not None:
        return [(span.start, span.end) for span in request.spans]
    if request.quote is not None:
        return Quote(request.quote, request.occurrence)
    if request.start is not None and request.end is not None:
        return [(request.start, request.end)]
    return request.split_by
