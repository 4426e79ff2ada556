"""GET /info, /health, /ready."""

from typing import get_args

from fastapi import APIRouter

from at2 import __version__, bundled
from service.dependencies import EngineDep
from service.errors import DOCUMENTED
from service.schemas import EstimatorInfo, InfoReply, SourceType, StatusReply

router = APIRouter(tags=["status"], responses=DOCUMENTED)


@router.get("/health")
async def health() -> StatusReply:
    """The process is alive."""
    return StatusReply(status="ok")


@router.get("/ready")
async def ready(_: EngineDep) -> StatusReply:
    """The model is loaded and has passed its self-test."""
    return StatusReply(status="ok")


@router.get("/info")
async def info(engine: EngineDep) -> InfoReply:
    """What serves here, and within which limits."""
    config = engine.model.config.get_text_config()
    return InfoReply(
        version=__version__,
        model=engine.settings.model,
        revision=engine.identity.revision,
        description=bundled.DESCRIPTION if engine.settings.model == bundled.NAME else None,
        device=str(engine.model.device),
        dtype=str(engine.model.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in engine.model.parameters()),
        max_context_tokens=getattr(config, "max_position_embeddings", None),
        max_new_tokens=engine.settings.max_new_tokens,
        methods=engine.methods,
        source_types=list(get_args(SourceType)),
        estimators=[
            EstimatorInfo(
                name=name,
                num_layers=estimator.feature_extractor.num_layers,
                num_heads=estimator.feature_extractor.num_heads,
                metadata=estimator.extras,
            )
            for name, estimator in engine.estimators.items()
        ],
    )
