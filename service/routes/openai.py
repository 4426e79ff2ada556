"""POST /v1/chat/completions, GET /v1/models: what clients of OpenAI's API know, with citations."""

import asyncio
import time
from contextlib import closing

from fastapi import APIRouter, Request, Response

from at2.errors import InputError
from service.body import JsonRoute
from service.dependencies import CallerDep, EngineDep, GenerationsDep, MetricsDep
from service.disconnect import connected
from service.engine import Answer, Engine, Question, Sampling
from service.errors import DOCUMENTED, UnknownModelError, of_part
from service.generations import Writing
from service.logs import note, note_text
from service.openai_schemas import ChatReply, ChatRequest, ModelReply, ModelsReply
from service.openai_stream import ChunkStream
from service.openai_translation import Cited, own_names, prompt_of, reply_of
from service.records import Prompt
from service.stream import EventStream, documented

router = APIRouter(prefix="/v1", tags=["openai"], responses=DOCUMENTED, route_class=JsonRoute)

_STREAM_DOCUMENTED = documented(
    "The completion; with `stream` as chunks, then `[DONE]`. An error in between is an event "
    '`{"error": …}`.'
)

_STARTED = int(time.time())
"""Seconds since 1970 when this process was started, which is when it loads the model."""


def _check(body: ChatRequest, engine: Engine) -> None:
    """Refuse what can be refused before anything is written.

    Raises:
        UnknownModelError: another model is asked for than the one that is served.
        InputError: the estimator is not here, or too many tokens are asked for.
    """
    if body.model not in ("", engine.settings.model):
        raise UnknownModelError(body.model, engine.settings.model)
    most, wanted = engine.settings.max_new_tokens, body.new_tokens
    if wanted is not None and wanted > most:
        name = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        raise InputError(f"{name} is {wanted}, the limit here is {most}", param=name)
    if body.attribution.enabled:
        method = body.attribution.method or engine.loaded.default_method
        engine.loaded.estimator_name(method, body.attribution.estimator)  # refuses what is not here


def _question(body: ChatRequest, engine: Engine, prompt: Prompt) -> Question | None:
    """How statements are cited; None if nobody asked, or there is nothing to cite.

    Raises:
        InputError: it takes more passes over the model than there may be.
    """
    options = body.attribution
    if not options.enabled or not (prompt.documents or prompt.source_messages):
        return None
    question = Question(
        "sentence",
        options.method or engine.loaded.default_method,
        options.estimator,
        top_k=options.top_k,
        min_share=options.min_share,
        support=options.support,
        only_cited=True,
    )
    engine.limits.check_cost(question, num_sources=1, num_spans=1)
    return question


@router.post("/chat/completions", response_model=ChatReply, responses=_STREAM_DOCUMENTED)
async def chat_completions(
    body: ChatRequest,
    request: Request,
    engine: EngineDep,
    generations: GenerationsDep,
    metrics: MetricsDep,
    caller: CallerDep,
) -> Response:
    """Answer the last message, and cite what each statement rests on.

    The documents, or else the earlier messages, are the sources; the `annotations` of the reply's
    message have those of every statement. Its `id` is what POST /attribute takes. With `stream`,
    the citations of a statement follow it as `annotations` of a chunk's `delta`. Where two of them
    overlap, the later one holds: what comes after a sentence may show that it had not ended, and
    with `attribution.support` all come once more when that is measured.
    Where citing fails, the response comes without annotations, and `attribution_error` says why.
    """
    note_text(query=body.messages[-1].text)
    model, prompt = engine.settings.model, prompt_of(body)
    with own_names():
        _check(body, engine)
        question = _question(body, engine, prompt)
    sampling = Sampling(
        body.new_tokens,
        body.temperature or 0.0,
        body.top_p or 1.0,
        body.seed,
        tuple(body.stop or ()),
    )
    shape = body.attribution.citation_format

    async def cited(writing: Writing) -> Cited:
        if question is None or not (writing.answer.sources and writing.answer.statements):
            return Cited()
        try:
            with own_names():
                findings = await writing.attribute(question)
        except Exception as error:  # it must not cost the response
            return Cited(error=of_part(error))
        metrics.observe_attribution(method=question.method, seconds=findings.seconds)
        note(attribution_method=question.method, spans=len(findings.attributions))
        return Cited(findings)

    async def whole(writing: Writing) -> tuple[Answer, Cited]:
        return await writing.finished(), await cited(writing)

    async with connected(request.receive, caller):
        with own_names():
            writing = await generations.begin(
                prompt, body.attribution.source_type, sampling, caller
            )
        if not body.stream:
            with closing(writing):
                answer, found = await caller.result_of(whole(writing), though_late=True)
            left_out = {"attribution_error"} if found.error is None else None
            content = await asyncio.to_thread(
                lambda: reply_of(model, answer, found, shape).model_dump_json(exclude=left_out)
            )
            return Response(content, media_type="application/json")
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    stream = ChunkStream(writing, model, question, shape, cited, usage=usage)
    return EventStream(stream.chunks(), caller, writing.close)


@router.get("/models")
async def models(engine: EngineDep) -> ModelsReply:
    """The model that is served."""
    return ModelsReply(data=[_model(engine.settings.model)])


@router.get("/models/{model_id:path}")
async def model(model_id: str, engine: EngineDep) -> ModelReply:
    """The model that is served, by its name."""
    if model_id != engine.settings.model:
        raise UnknownModelError(model_id, engine.settings.model)
    return _model(model_id)


def _model(name: str) -> ModelReply:
    return ModelReply(id=name, created=_STARTED, owned_by="at2")
