"""What routes are given: what the application owns, who calls, and the records themselves.

Coroutines, though they wait for nothing: FastAPI would run a plain function in another thread.
"""

from typing import Annotated, Any

from fastapi import Depends, Request

from service.caller import Caller
from service.engine import Engine
from service.errors import UnknownGenerationError
from service.generations import Generations
from service.metrics import Metrics
from service.records import Kept, RecordStore


def _owned(name: str) -> Any:
    """What the application has under a name."""

    async def owned(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(owned)


async def _caller(request: Request) -> Caller:
    return Caller(getattr(request.state, "key_id", ""))


CallerDep = Annotated[Caller, Depends(_caller)]
"""Who waits for the reply: one caller for each key, and one for all who have none."""
EngineDep = Annotated[Engine, _owned("engine")]
GenerationsDep = Annotated[Generations, _owned("generations")]
StoreDep = Annotated[RecordStore, _owned("store")]
MetricsDep = Annotated[Metrics, _owned("metrics")]


async def kept_generation(store: RecordStore, generation_id: str, caller: Caller) -> Kept:
    """The generation with an id, if this caller may see it.

    Raises:
        UnknownGenerationError: there is none, or it belongs to somebody else.
    """
    kept = await store.get(generation_id, caller.name)
    if kept is None:
        raise UnknownGenerationError(generation_id)
    return kept
