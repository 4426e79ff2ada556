"""GET /info, /health, /ready."""

from typing import get_args

from fastapi import APIRouter

from at2 import __version__
from service.dependencies import EngineDep
from service.engine import Engine
from service.errors import DOCUMENTED
from service.failures import EngineDownError
from service.field_types import SourceType
from service.records import kind_of_store
from service.status_schemas import (
    EstimatorInfo,
    GenerationInfo,
    InfoReply,
    Limits,
    ScoringInfo,
    StatusReply,
    StoreInfo,
    SupportInfo,
)

router = APIRouter(tags=["status"], responses=DOCUMENTED)


@router.head("/health", include_in_schema=False)
@router.get("/health")
async def health(engine: EngineDep) -> StatusReply:
    """The process is alive, and worth keeping: 503 if only a new one can generate again."""
    if engine.dead:
        raise EngineDownError()
    return StatusReply(status="ok")


@router.head("/ready", include_in_schema=False)
@router.get("/ready")
async def ready(engine: EngineDep) -> StatusReply:
    """Requests can be answered: the model is loaded and tested, and generation runs. Without its
    store a server still answers all that needs no record."""
    if not engine.ready:
        raise EngineDownError()
    return StatusReply(status="ok")


@router.get("/info")
async def info(engine: EngineDep) -> InfoReply:
    """What serves here, and within which limits."""
    settings, loaded, support = engine.settings, engine.loaded, engine.loaded.calibration
    return InfoReply(
        version=__version__,
        model=settings.model,
        revision=loaded.identity.revision,
        device=str(loaded.model.device),
        dtype=str(loaded.model.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in loaded.model.parameters()),
        max_context_tokens=engine.limits.context_tokens,
        max_new_tokens=settings.max_new_tokens,
        limits=_limits(engine),
        generation=GenerationInfo(
            batched=engine.generation_way.batched,
            reason=engine.generation_way.reason,
            server=engine.generator,
        ),
        store=_store(engine),
        methods=loaded.methods,
        default_method=loaded.default_method,
        source_types=list(get_args(SourceType)),
        estimators=[
            EstimatorInfo(
                name=name,
                num_layers=estimator.feature_extractor.num_layers,
                num_heads=estimator.feature_extractor.num_heads,
                exponents=list(estimator.feature_extractor.exponents),
                metadata=estimator.extras,
            )
            for name, estimator in loaded.estimators.items()
        ],
        scoring=ScoringInfo.model_validate(engine.scoring, from_attributes=True),
        support=None
        if support is None
        else SupportInfo.model_validate(support, from_attributes=True),
    )


def _limits(engine: Engine) -> Limits:
    settings = engine.settings
    return Limits(
        max_context_tokens=engine.limits.context_tokens,
        max_new_tokens=settings.max_new_tokens,
        max_documents=settings.max_documents,
        max_spans=settings.max_spans,
        max_passes=settings.max_passes,
        max_requests=engine.admission.limit,
        max_requests_per_key=engine.admission.of_one_caller,
        max_long_attributions=engine.admission.of_many_passes,
        request_seconds=engine.limits.allowed_seconds(),
    )


def _store(engine: Engine) -> StoreInfo:
    settings = engine.settings
    kind = kind_of_store(settings.store)
    return StoreInfo(kind=kind, seconds=0 if kind == "none" else settings.store_seconds)
