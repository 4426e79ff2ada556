"""POST /v1/chat/completions, GET /v1/models: what clients of OpenAI's API know, with citations."""

import asyncio
import time
from contextlib import closing

from fastapi import APIRouter, Request, Response

from at2.errors import InputError
from service.body import JsonRoute
from service.caller import Caller
from service.dependencies import CallerDep, EngineDep, GenerationsDep, MetricsDep
from service.disconnect import connected
from service.engine import Answer, Engine, Findings, Question, Sampling
from service.errors import DOCUMENTED, UnknownModelError
from service.logs import note, note_text
from service.metrics import Metrics
from service.openai_schemas import ChatReply, ChatRequest, ModelReply, ModelsReply
from service.openai_translation import prompt_of, reply_of

router = APIRouter(prefix="/v1", tags=["openai"], responses=DOCUMENTED, route_class=JsonRoute)

_STARTED = int(time.time())
"""When the process loaded the model, about."""


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
        method = body.attribution.method or engine.default_method
        engine.check_method(method, body.attribution.estimator)


async def _cited(
    body: ChatRequest, answer: Answer, engine: Engine, metrics: Metrics, caller: Caller
) -> Findings | None:
    """The sources of every statement; None where there is nothing to cite or nobody asked."""
    options, generation = body.attribution, answer.generation
    if not (options.enabled and answer.sources and answer.statements):
        return None
    method = options.method or engine.default_method
    question = Question("sentence", method, options.estimator, top_k=options.top_k)
    # its time begins when the response is there, which may have taken all of the caller's
    findings = await engine.attribute_generation(generation, question, Caller(caller.name))
    metrics.observe_attribution(method=method, seconds=findings.seconds)
    note(attribution_method=method, spans=len(findings.attributions))
    return findings


@router.post("/chat/completions", response_model=ChatReply)
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
    message have the sources of every statement. Its `id` is what POST /attribute takes.
    """
    _check(body, engine)
    note_text(query=body.messages[-1].content)
    sampling = Sampling(body.new_tokens, body.temperature or 0.0, body.top_p or 1.0, body.seed)
    source_type = body.attribution.source_type
    async with connected(request.receive, caller):
        writing = await generations.begin(prompt_of(body), source_type, sampling, caller)
        with closing(writing):
            answer = await caller.stay(writing.finished(), though_late=True)
        citing = _cited(body, answer, engine, metrics, caller)
        findings = await caller.stay(citing, though_late=True)
        content = await asyncio.to_thread(
            lambda: reply_of(engine.settings.model, answer, findings).model_dump_json()
        )
    return Response(content, media_type="application/json")


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
