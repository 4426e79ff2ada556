"""POST /attribute."""

import asyncio

from fastapi import APIRouter, Request, Response

from at2.ranges import CharRange
from at2.tasks import Document
from service.body import JsonRoute
from service.citation_formats import Citations
from service.citation_schemas import CitationFormat
from service.dependencies import CallerDep, EngineDep, MetricsDep, StoreDep, kept_generation
from service.disconnect import connected
from service.engine import Finding, Findings, Question
from service.errors import DOCUMENTED
from service.field_types import Method
from service.logs import note
from service.records import Prompt, thoughts_document
from service.reply_schemas import (
    AttributeReply,
    ScoredSource,
    SpanAttribution,
    Verification,
)
from service.request_schemas import AttributeRequest
from service.translation import prompt_of, source_fields, spans_of

router = APIRouter(tags=["attribution"], responses=DOCUMENTED, route_class=JsonRoute)


def _attribution(
    found: Finding, documents: tuple[Document, ...], prompt: Prompt
) -> SpanAttribution:
    attribution, verification, support = found.attribution, found.verification, found.support
    reply = SpanAttribution(
        start=attribution.start,
        end=attribution.end,
        text=attribution.text,
        attributed_text=attribution.attributed_text,
        sources=[
            ScoredSource(
                rank=ranked.rank,
                score=ranked.score,
                cited=ranked.cited,
                **source_fields(ranked.source, documents, prompt),
            )
            for ranked in attribution.sources
        ],
    )
    if verification is not None:
        reply.verification = Verification.model_validate(verification, from_attributes=True)
    if support is not None:
        reply.support, reply.verdict = support.support, support.verdict
    return reply


def _encoded(
    model: str,
    generation_id: str | None,
    method: Method,
    findings: Findings,
    documents: tuple[Document, ...],
    prompt: Prompt,
    response: str,
    shape: CitationFormat | None,
) -> bytes:
    """The reply as JSON; fields that were not set are left out."""
    made: dict[CharRange, SpanAttribution] = {}  # spans may be given more than once
    for found in findings.spans:
        span = found.attribution.start, found.attribution.end
        if span not in made:
            made[span] = _attribution(found, documents, prompt)
    reply = AttributeReply(
        id=generation_id,
        model=model,
        method=method,
        estimator=findings.estimator,
        attributions=[made[one.start, one.end] for one in findings.attributions],
    )
    if shape is not None:
        cited = Citations(shape, documents).of_all(findings.spans, response)
        if shape == "anthropic":
            reply.content = cited
        else:
            reply.citations = cited
    return reply.model_dump_json(exclude_unset=True).encode()


@router.post("/attribute", response_model=AttributeReply)
async def attribute(
    body: AttributeRequest,
    request: Request,
    engine: EngineDep,
    store: StoreDep,
    metrics: MetricsDep,
    caller: CallerDep,
) -> Response:
    """Rank the sources that the model used for spans of a response.

    Without `start` and `end`, `spans`, `quote` or `split_by`, the whole response is one span.
    """
    method = body.method or engine.loaded.default_method
    question = Question(
        spans_of(body),
        method,
        body.estimator,
        body.source_type,
        body.top_k,
        body.min_share,
        body.verify,
        body.support,
        None if body.retrieval_scores is None else tuple(body.retrieval_scores),
        body.hops,
    )
    if body.id is not None:
        kept = await kept_generation(store, body.id, caller)
        prompt, response = kept.generation.prompt, kept.generation.response
        documents = kept.generation.source_documents
        work = engine.attribute_generation(kept.generation, question, caller)
    else:
        prompt, response = prompt_of(body), body.response or ""
        documents = prompt.source_documents
        if body.thoughts is not None:
            documents += (thoughts_document(body.thoughts),)
        work = engine.attribute_response(prompt, response, question, caller, thoughts=body.thoughts)
    async with connected(request.receive, caller):
        findings = await work
    metrics.observe_attribution(method=method, seconds=findings.seconds)
    note(attribution_method=method, spans=len(findings.attributions))
    # in another thread, as it may have megabytes
    content = await asyncio.to_thread(
        _encoded,
        engine.settings.model,
        body.id,
        method,
        findings,
        documents,
        prompt,
        response,
        body.citation_format,
    )
    return Response(content, media_type="application/json")
