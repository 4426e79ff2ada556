"""From what goes over the wire to what the engine is asked, and back."""

from collections.abc import Sequence
from typing import Any

from at2.tasks import Document, SourceSpan
from service.engine import Quote, Spans
from service.field_types import SourceMessages
from service.records import Prompt
from service.request_schemas import AttributeRequest, GenerateRequest


def prompt_of(request: GenerateRequest | AttributeRequest) -> Prompt:
    """The prompt of a request; a single context is one document without a title."""
    documents = (
        (Document(text=request.context),)
        if request.context is not None
        else tuple(Document(d.text, d.id, d.title) for d in request.documents or ())
    )
    turns = [(m.role, m.content) for m in request.messages]
    if not request.answers_tool:
        turns.append(("user", request.query or ""))
    *earlier, (role, query) = turns
    thoughts = (
        request.source_thoughts
        if isinstance(request, GenerateRequest)
        else request.thoughts is not None
    )
    return Prompt(
        documents,
        query,
        tuple(earlier),
        chosen_messages(
            request.source_messages, [role for role, _ in turns], has_documents=bool(documents)
        ),
        source_thoughts=thoughts,
        role=role,
    )


def chosen_messages(
    chosen: SourceMessages | None, roles: Sequence[str], *, has_documents: bool
) -> tuple[int, ...] | None:
    """The numbers of the turns that are sources; None where only documents can be.

    Args:
        chosen: which ones; by default none beside documents, and all without.
        roles: of all turns. The last, what is answered, is among all only if a tool wrote it.
        has_documents: whether there are documents.
    """
    if chosen is None and has_documents:
        return None
    if isinstance(chosen, list):
        return tuple(sorted(set(chosen)))
    last = len(roles) - 1
    return tuple(
        number
        for number, role in enumerate(roles)
        if role == "tool" or (chosen != "tool" and number < last)
    )


def spans_of(request: AttributeRequest) -> Spans:
    """Which characters of the response a request is about."""
    if request.spans is not None:
        return [(span.start, span.end) for span in request.spans]
    if request.quote is not None:
        return Quote(request.quote, request.occurrence)
    if request.start is not None and request.end is not None:
        return [(request.start, request.end)]
    return request.split_by


def source_fields(
    source: SourceSpan, documents: Sequence[Document], prompt: Prompt
) -> dict[str, Any]:
    """A source as `service.reply_schemas.Source` has it.

    Args:
        source: one of a task made of the prompt.
        documents: what its `document` counts.
        prompt: what was asked.
    """
    kind = prompt.kind_of(source.document)
    return {
        "index": source.index,
        **({} if kind == "document" else {"kind": kind}),
        "document": source.document,
        "document_id": documents[source.document].id,
        "start": source.start,
        "end": source.end,
        "text": source.text,
    }
