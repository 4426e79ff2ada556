"""POST /generate, GET and DELETE /generations/{id}."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.body import JsonRoute
from service.dependencies import CallerDep, EngineDep, GenerationsDep, StoreDep, kept_generation
from service.disconnect import connected
from service.engine import Answer, Sampling
from service.errors import DOCUMENTED, UnknownGenerationError, event
from service.generations import Writing
from service.logs import note_text
from service.reply_schemas import DeletionReply, Delta, GenerateReply, Source, Statement, Usage
from service.request_schemas import GenerateRequest
from service.stream import EventStream, documented
from service.translation import prompt_of, source_fields

router = APIRouter(tags=["generation"], responses=DOCUMENTED, route_class=JsonRoute)

_STREAM_DOCUMENTED = documented(
    "The generation; with `stream` as events: `delta` ones, then `done`, then `[DONE]`. An error "
    'in between is an event `{"error": …}`.'
)


def _reply(model: str, answer: Answer, expires: int | None) -> GenerateReply:
    generation = answer.generation
    documents, prompt = generation.source_documents, generation.prompt
    reply = GenerateReply(
        id=generation.id,
        model=model,
        created=generation.created,
        expires=expires,
        response=generation.response,
        finish_reason=generation.finish_reason,
        usage=Usage(
            prompt_tokens=generation.prompt_tokens, completion_tokens=len(generation.response_ids)
        ),
        sources=[Source(**source_fields(s, documents, prompt)) for s in answer.sources],
        statements=[
            Statement(start=start, end=end, text=generation.response[start:end])
            for start, end in answer.statements
        ],
    )
    if generation.encoded:
        reply.encoded = True
    if generation.thoughts is not None:
        reply.thoughts = generation.before[slice(*generation.thoughts)]
    return reply


def _json(reply: GenerateReply) -> bytes:
    return reply.model_dump_json(exclude_unset=True).encode()


async def _encoded(model: str, answer: Answer, expires: int | None) -> bytes:
    """The reply as JSON; made in another thread, as it may have megabytes."""
    return await asyncio.to_thread(lambda: _json(_reply(model, answer, expires)))


async def _events(writing: Writing, model: str) -> AsyncIterator[dict[str, Any] | bytes]:
    try:
        async for text in writing:
            yield Delta(type="delta", text=text).model_dump()
        generation = await _encoded(model, writing.answer, writing.expires)
        yield b'{"type":"done","generation":' + generation + b"}"  # see `Done`
    except Exception as error:  # the status is sent: it can only be told in the stream
        yield event(error)


@router.post("/generate", responses=_STREAM_DOCUMENTED, response_model=GenerateReply)
async def generate(
    body: GenerateRequest,
    request: Request,
    engine: EngineDep,
    generations: GenerationsDep,
    caller: CallerDep,
) -> Response:
    """Answer a query from a context, and keep the answer for POST /attribute.

    With `stream`, the reply is `text/event-stream`: events `{"type": "delta", "text": …}`, whose
    texts joined are the response, then `{"type": "done", "generation": …}` with what the reply is
    without `stream`, then `[DONE]`.
    """
    note_text(query=body.query or "")
    sampling = Sampling(
        body.max_new_tokens, body.temperature, body.top_p, body.seed, tuple(body.stop or ())
    )
    model = engine.settings.model
    async with connected(request.receive, caller):
        writing = await generations.begin(prompt_of(body), body.source_type, sampling, caller)
        if not body.stream:
            with closing(writing):
                answer = await caller.result_of(writing.finished(), though_late=True)
                content = await _encoded(model, answer, writing.expires)
                return Response(content, media_type="application/json")
    return EventStream(_events(writing, model), caller, writing.close)


@router.get("/generations/{generation_id}", response_model=GenerateReply)
async def get_generation(
    generation_id: str, request: Request, engine: EngineDep, store: StoreDep, caller: CallerDep
) -> Response:
    """The reply of an earlier POST /generate."""
    kept = await kept_generation(store, generation_id, caller)
    async with connected(request.receive, caller):
        answer = await engine.answer(kept.generation, caller)
    content = await _encoded(engine.settings.model, answer, kept.expires)
    return Response(content, media_type="application/json")


_DELETED_DOCUMENTED: dict[int | str, dict[str, Any]] = {
    202: {
        "model": DeletionReply,
        "description": "It is forgotten, but its text is still in the store's file, which another "
        "process reads: it goes as soon as that has ended.",
    }
}


@router.delete(
    "/generations/{generation_id}",
    status_code=204,
    response_class=Response,
    responses=_DELETED_DOCUMENTED,
)
async def delete_generation(
    generation_id: str, generations: GenerationsDep, caller: CallerDep
) -> Response:
    """Forget a generation and its scores."""
    if not await generations.forget(generation_id, caller):
        raise UnknownGenerationError(generation_id)
    if generations.erased:
        return Response(status_code=204)
    return JSONResponse(DeletionReply(id=generation_id, erased=False).model_dump(), 202)
