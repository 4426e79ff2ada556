"""POST /generate, GET and DELETE /generations/{id}."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from at2.tasks import Document
from service.body import JsonRoute
from service.dependencies import EngineDep, MetricsDep, OwnerDep, StoreDep, known
from service.disconnect import unless_gone
from service.engine import Answer, Engine, Generating, Sampling
from service.errors import DOCUMENTED, UnknownGenerationError, event
from service.logs import note, note_text
from service.metrics import Metrics
from service.records import Prompt, RecordStore
from service.schemas import (
    AttributeRequest,
    DeletionReply,
    Delta,
    GenerateReply,
    GenerateRequest,
    Source,
    Statement,
    Usage,
)
from service.stream import EventStream

router = APIRouter(tags=["generation"], responses=DOCUMENTED, route_class=JsonRoute)

_EVENT_SCHEMA = {  # of one event: before OpenAPI 3.2 there is no way to say so
    "type": "object",
    "required": ["data"],
    "properties": {
        "data": {"type": "string", "description": "an object as JSON, or `[DONE]` at the end"}
    },
}

_STREAM_DOCUMENTED: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The generation; with `stream` as events: `delta` ones, then `done`, then "
        '`[DONE]`. An error in between is an event `{"error": …}`.',
        "content": {"text/event-stream": {"schema": _EVENT_SCHEMA}},
    }
}


def prompt_of(request: GenerateRequest | AttributeRequest) -> Prompt:
    """The prompt of a request; a single context is one document without a title."""
    documents = (
        (Document(text=request.context),)
        if request.context is not None
        else tuple(Document(d.text, d.id, d.title) for d in request.documents or ())
    )
    messages = tuple((m.role, m.content) for m in request.messages)
    return Prompt(documents, request.query or "", messages)


def _reply(model: str, answer: Answer, expires: int | None) -> GenerateReply:
    generation = answer.generation
    return GenerateReply(
        id=generation.id,
        model=model,
        created=generation.created,
        expires=expires,
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


async def _encoded(model: str, answer: Answer, expires: int | None) -> tuple[GenerateReply, bytes]:
    """A reply, and the same as JSON; made in another thread, as it may have megabytes."""

    def work() -> tuple[GenerateReply, bytes]:
        reply = _reply(model, answer, expires)
        return reply, reply.model_dump_json().encode()

    return await asyncio.to_thread(work)


class _Clock:
    """Times one generation and tells the metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._started = time.perf_counter()
        self._first = True

    def token(self) -> None:
        """A piece of the response is there."""
        if self._first:
            self._first = False
            self._metrics.observe_first_token(time.perf_counter() - self._started)

    def done(self, reply: GenerateReply) -> None:
        """The response is finished."""
        usage = reply.usage.model_dump()
        self._metrics.observe_generation(
            seconds=time.perf_counter() - self._started,
            finish_reason=reply.finish_reason,
            **usage,
        )
        note(generation=reply.id, finish_reason=reply.finish_reason, **usage)
        note_text(response=reply.response)


async def _finish(
    generating: Generating, engine: Engine, store: RecordStore, owner: str, clock: _Clock
) -> bytes:
    """Keep a finished generation and make the reply; its place is given up before it is sent."""
    generating.close()
    expires = await store.put(generating.answer.generation, owner)
    if expires is not None:  # nobody can ask about what is not kept
        engine.prepare(generating.answer)
    reply, content = await _encoded(engine.settings.model, generating.answer, expires)
    clock.done(reply)
    return content


async def _events(
    generating: Generating, engine: Engine, store: RecordStore, owner: str, clock: _Clock
) -> AsyncIterator[dict[str, Any] | bytes]:
    try:
        async for text in generating:
            clock.token()
            yield Delta(type="delta", text=text).model_dump()
        generation = await _finish(generating, engine, store, owner, clock)
        yield b'{"type":"done","generation":' + generation + b"}"  # see `Done`
    except Exception as error:  # the status is sent: it can only be told in the stream
        yield event(error)


@router.post("/generate", responses=_STREAM_DOCUMENTED, response_model=GenerateReply)
async def generate(
    body: GenerateRequest,
    request: Request,
    engine: EngineDep,
    store: StoreDep,
    metrics: MetricsDep,
    owner: OwnerDep,
) -> Response:
    """Answer a query from a context, and keep the answer for POST /attribute.

    With `stream`, the reply is `text/event-stream`: events `{"type": "delta", "text": …}`, whose
    texts joined are the response, then `{"type": "done", "generation": …}` with what the reply is
    without `stream`, then `[DONE]`.
    """
    clock = _Clock(metrics)
    note_text(query=body.query or "")
    sampling = Sampling(body.max_new_tokens, body.temperature, body.top_p, body.seed)
    generating = await unless_gone(
        request,
        engine.generate(prompt_of(body), body.source_type, sampling, streaming=body.stream),
    )
    if body.stream:

        async def close() -> None:
            generating.close()

        return EventStream(_events(generating, engine, store, owner, clock), close)
    try:
        await unless_gone(request, generating.finished())
        content = await _finish(generating, engine, store, owner, clock)
        return Response(content, media_type="application/json")
    finally:
        generating.close()


@router.get("/generations/{generation_id}", response_model=GenerateReply)
async def get_generation(
    generation_id: str, engine: EngineDep, store: StoreDep, owner: OwnerDep
) -> Response:
    """The reply of an earlier POST /generate."""
    kept = await known(store, generation_id, owner)
    answer = await engine.answer(kept.generation)
    _, content = await _encoded(engine.settings.model, answer, kept.expires)
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
    generation_id: str, engine: EngineDep, store: StoreDep, owner: OwnerDep
) -> Response:
    """Forget a generation and its scores."""
    if not await store.delete(generation_id, owner):
        raise UnknownGenerationError(generation_id)
    engine.forget(generation_id)
    if store.erased:
        return Response(status_code=204)
    return JSONResponse(DeletionReply(id=generation_id, erased=False).model_dump(), 202)
