"""From what OpenAI's clients send to what the engine is asked, and back."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

from at2.errors import InputError
from at2.tasks import Document
from service.citation_formats import Citations
from service.citation_schemas import CitationFormat
from service.engine import Answer, Findings
from service.openai_schemas import (
    AttributionOptions,
    ChatReply,
    ChatRequest,
    ChatUsage,
    Choice,
    FinishReason,
    ReplyMessage,
)
from service.records import Prompt
from service.reply_schemas import ErrorBody
from service.translation import chosen_messages


@contextmanager
def own_names() -> Iterator[None]:
    """Let errors of the block name fields as these requests have them.

    Raises:
        InputError: one of the block's; what says how to cite is a field of `attribution`.
    """
    try:
        yield
    except InputError as error:
        if error.param in AttributionOptions.model_fields:
            renamed = copy(error)  # others may wait for the same work
            renamed.param = f"attribution.{error.param}"
            raise renamed from error
        raise


def prompt_of(request: ChatRequest) -> Prompt:
    """The prompt of a request. With documents, these are the context of the last message; without,
    all turns before it are what can be cited, and it too where a tool wrote it."""
    *earlier, last = request.messages
    turns = tuple(
        ("system" if turn.role == "developer" else turn.role, turn.text) for turn in earlier
    )
    documents = tuple(Document(d.text, d.id, d.title) for d in request.documents or ())
    sources = chosen_messages(
        request.attribution.source_messages,
        [*(role for role, _ in turns), last.role],
        has_documents=bool(documents),
    )
    return Prompt(documents, last.text, turns, sources, role=last.role)


@dataclass(frozen=True)
class Cited:
    """What is cited in a response.

    Attributes:
        findings: about its statements; None if nothing is to be cited, or citing failed.
        error: why it failed.
    """

    findings: Findings | None = None
    error: ErrorBody | None = None


def reply_of(model: str, answer: Answer, cited: Cited, shape: CitationFormat | None) -> ChatReply:
    """The reply of a generation, with what its statements cite."""
    generation = answer.generation
    annotations: list[Any] = []
    if cited.findings is not None:
        citations = Citations(shape, generation.prompt.source_documents)
        annotations = citations.of_all(cited.findings.spans, generation.response)
    message = ReplyMessage(content=generation.response, annotations=annotations)
    return ChatReply(
        attribution_error=cited.error,
        id=generation.id,
        created=generation.created,
        model=model,
        choices=[Choice(message=message, finish_reason=finish_reason_of(answer))],
        usage=usage_of(answer),
    )


def finish_reason_of(answer: Answer) -> FinishReason:
    """Why the response ended; `length` also where its time was over, for which clients have no
    word."""
    return "stop" if answer.generation.finish_reason == "stop" else "length"


def usage_of(answer: Answer) -> ChatUsage:
    """The numbers of tokens."""
    prompt, new = answer.generation.prompt_tokens, len(answer.generation.response_ids)
    return ChatUsage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)
