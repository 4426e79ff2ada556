"""From what OpenAI's clients send to what the engine is asked, and back."""

from at2.methods import Attribution
from at2.tasks import Document
from service.citations import CITED_SHARE
from service.engine import Answer, Findings
from service.openai_schemas import (
    Annotation,
    ChatReply,
    ChatRequest,
    ChatUsage,
    Choice,
    CitedSource,
    FinishReason,
    ReplyMessage,
)
from service.records import Prompt


def prompt_of(request: ChatRequest) -> Prompt:
    """The prompt of a request. With documents, these are the context of the last message; without,
    all turns before it are what can be cited."""
    *earlier, last = request.messages
    turns = tuple(
        ("system" if turn.role == "developer" else turn.role, turn.content) for turn in earlier
    )
    if request.documents is not None:
        documents = tuple(Document(d.text, d.id, d.title) for d in request.documents)
        return Prompt(documents, last.content, turns)
    chosen = request.attribution.source_messages
    sources = range(len(turns)) if chosen is None else sorted(set(chosen))
    return Prompt((), last.content, turns, tuple(sources))


def reply_of(model: str, answer: Answer, findings: Findings | None) -> ChatReply:
    """The reply of a generation, with what its statements cite."""
    generation = answer.generation
    documents = generation.prompt.source_documents
    attributions = [] if findings is None else findings.attributions
    message = ReplyMessage(
        content=generation.response,
        annotations=[annotation_of(found, documents) for found in attributions],
    )
    return ChatReply(
        id=generation.id,
        created=generation.created,
        model=model,
        choices=[Choice(message=message, finish_reason=finish_reason_of(answer))],
        usage=usage_of(answer),
    )


def finish_reason_of(answer: Answer) -> FinishReason:
    """Why the response ended; `length` as well where the time was over, which clients do not know."""
    return "stop" if answer.generation.finish_reason == "stop" else "length"


def usage_of(answer: Answer) -> ChatUsage:
    """The numbers of tokens."""
    prompt, new = answer.generation.prompt_tokens, len(answer.generation.response_ids)
    return ChatUsage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)


def annotation_of(found: Attribution, documents: tuple[Document, ...]) -> Annotation:
    """A statement with the sources that it cites."""
    return Annotation(
        start=found.start,
        end=found.end,
        text=found.text,
        sources=[
            CitedSource(
                document=ranked.source.document,
                document_id=documents[ranked.source.document].id,
                document_title=documents[ranked.source.document].title,
                start=ranked.source.start,
                end=ranked.source.end,
                text=ranked.source.text,
                score=ranked.score,
            )
            for ranked in found.sources
            if ranked.score > 0 and ranked.score >= CITED_SHARE * found.sources[0].score
        ],
    )
