"""POST /generate, GET and DELETE /generations/{id}."""

from fastapi import APIRouter, Response

from at2.tasks import Document
from service.dependencies import EngineDep, StoreDep
from service.engine import Answer, Sampling
from service.errors import DOCUMENTED, UnknownGenerationError
from service.records import Prompt
from service.schemas import (
    AttributeRequest,
    GenerateReply,
    GenerateRequest,
    Source,
    Statement,
    Usage,
)

router = APIRouter(tags=["generation"], responses=DOCUMENTED)


def prompt_of(request: GenerateRequest | AttributeRequest) -> Prompt:
    """The prompt of a request; a single context is one document without a title."""
    documents = (
        (Document(text=request.context),)
        if request.context is not None
        else tuple(Document(d.text, d.id, d.title) for d in request.documents or ())
    )
    messages = tuple((m.role, m.content) for m in request.messages)
    return Prompt(documents, request.query or "", messages)


def _reply(model: str, answer: Answer) -> GenerateReply:
    generation = answer.generation
    return GenerateReply(
        id=generation.id,
        model=model,
        created=generation.created,
        response=generation.response,
        finish_reason=generation.finish_reason,
        usage=Usage(
            prompt_tokens=generation.prompt_tokens, completion_tokens=len(generation.response_ids)
        ),
        sources=[
            Source(
                index=source.index,
                document=source.document,
                document_id=generation.prompt.documents[source.document].id,
                start=source.start,
                end=source.end,
                text=source.text,
            )
            for source in answer.sources
        ],
        statements=[
            Statement(start=start, end=end, text=generation.response[start:end])
            for start, end in answer.statements
        ],
    )


@router.post("/generate")
async def generate(request: GenerateRequest, engine: EngineDep, store: StoreDep) -> GenerateReply:
    """Answer a query from a context, and keep the answer for POST /attribute."""
    sampling = Sampling(request.max_new_tokens, request.temperature, request.top_p, request.seed)
    answer = await engine.generate(prompt_of(request), request.source_type, sampling)
    store.put(answer.generation)
    return _reply(engine.settings.model, answer)


@router.get("/generations/{generation_id}")
async def get_generation(generation_id: str, engine: EngineDep, store: StoreDep) -> GenerateReply:
    """The reply of an earlier POST /generate."""
    generation = store.get(generation_id)
    if generation is None:
        raise UnknownGenerationError(generation_id)
    return _reply(engine.settings.model, await engine.answer(generation))


@router.delete("/generations/{generation_id}", status_code=204, response_class=Response)
async def delete_generation(generation_id: str, engine: EngineDep, store: StoreDep) -> None:
    """Forget a generation and its scores."""
    if not store.delete(generation_id):
        raise UnknownGenerationError(generation_id)
    await engine.forget(generation_id)
