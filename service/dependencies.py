"""What routes are given: what the application owns, who calls, and the records themselves.

Coroutines, though they wait for nothing: FastAPI would run a plain function in another thread.
"""

from typing import Annotated

from fastapi import Depends, Request

from service.caller import Caller
from service.engine import Engine
from service.errors import UnknownGenerationError
from service.generations import Generations
from service.metrics import Metrics
from service.records import Kept, RecordStore


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _store(request: Request) -> RecordStore:
    store: RecordStore = request.app.state.store
    return store


async def _generations(request: Request) -> Generations:
    generations: Generations = request.app.state.generations
    return generations


async def _caller(request: Request) -> Caller:
    return Caller(getattr(request.state, "key_id", ""))


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


CallerDep = Annotated[Caller, Depends(_caller)]
"""Who waits for the reply: one caller for each key, and one for all who have none."""
EngineDep = Annotated[Engine, Depends(_engine)]
GenerationsDep = Annotated[Generations, Depends(_generations)]
StoreDep = Annotated[RecordStore, Depends(_store)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]


async def kept_generation(store: RecordStore, generation_id: str, caller: Caller) -> Kept:
    """The generation of an id.

    Raises:
        UnknownGenerationError: there is none, or it belongs to somebody else.
    """
    kept = await store.get(generation_id, caller.name)
    if kept is None:
        raise UnknownGenerationError(generation_id)
    return kept
