"""POST /attribute."""

from fastapi import APIRouter

from at2.attributors import Attribution
from at2.tasks import Document
from service.dependencies import EngineDep, StoreDep
from service.engine import Spans
from service.errors import DOCUMENTED, UnknownGenerationError
from service.routes.generations import prompt_of
from service.schemas import AttributeReply, AttributeRequest, ScoredSource, SpanAttribution

router = APIRouter(tags=["attribution"], responses=DOCUMENTED)

_DEFAULT_SOURCE_TYPE = "sentence"


def _attribution(attribution: Attribution, documents: tuple[Document, ...]) -> SpanAttribution:
    return SpanAttribution(
        start=attribution.start,
        end=attribution.end,
        text=attribution.text,
        attributed_text=attribution.attributed_text,
        sources=[
            ScoredSource(
                rank=ranked.rank,
                score=ranked.score,
                index=ranked.source.index,
                document=ranked.source.document,
                document_id=documents[ranked.source.document].id,
                start=ranked.source.start,
                end=ranked.source.end,
                text=ranked.source.text,
            )
            for ranked in attribution.sources
        ],
    )


def _spans(request: AttributeRequest) -> Spans:
    if request.spans is not None:
        return [(span.start, span.end) for span in request.spans]
    if request.start is not None and request.end is not None:
        return [(request.start, request.end)]
    return request.split_by


@router.post("/attribute")
async def attribute(
    request: AttributeRequest, engine: EngineDep, store: StoreDep
) -> AttributeReply:
    """Rank the sources that the model used for spans of a response.

    Without `start` and `end`, `spans` or `split_by`, the whole response is one span.
    """
    if request.id is not None:
        generation = store.get(request.id)
        if generation is None:
            raise UnknownGenerationError(request.id)
        prompt = generation.prompt
        attributions = await engine.attribute_generation(
            generation,
            _spans(request),
            method=request.method,
            estimator=request.estimator,
            source_type=request.source_type,
            top_k=request.top_k,
        )
    else:
        prompt = prompt_of(request)
        attributions = await engine.attribute_response(
            prompt,
            request.response or "",
            _spans(request),
            method=request.method,
            estimator=request.estimator,
            source_type=request.source_type or _DEFAULT_SOURCE_TYPE,
            top_k=request.top_k,
        )
    return AttributeReply(
        id=request.id,
        model=engine.settings.model,
        method=request.method,
        estimator=engine.estimator_name(request.method, request.estimator),
        attributions=[_attribution(a, prompt.documents) for a in attributions],
    )
