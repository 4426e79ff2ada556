"""Puts the application together around an engine."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from at2 import __version__
from service import errors, operation
from service.engine import Engine
from service.failures import StoreError
from service.generations import Generations
from service.metrics import Metrics
from service.records import ScoreStore, open_store
from service.routes import attribution, generations, openai, page, status

logger = logging.getLogger("at2.service")

_SWEEP_SECONDS = 60.0
"""How long expired text may stay on the disk."""

_MB = 2**20


def create_app(engine: Engine) -> FastAPI:
    """The application that serves an engine; it starts the engine, and closes it at the end, or if
    it does not start.

    Raises:
        StoreError: the place of the records cannot be used.
        ValueError: keys or origins in the settings are malformed.
    """
    settings = engine.settings
    store = open_store(
        settings.store,
        seconds=settings.store_seconds,
        max_bytes=settings.store_mb * _MB,
        max_records=settings.max_records,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as begun:
            if app.state.traces is not None:
                begun.push_async_callback(asyncio.to_thread, app.state.traces.close)
            begun.push_async_callback(store.close)
            # whether it starts or not: a thread that is left would keep the process from ending
            begun.push_async_callback(asyncio.to_thread, engine.close)
            await engine.start()
            if isinstance(store, ScoreStore):
                engine.share_scores(store)
            await begun.enter_async_context(_swept(app.state.generations))
            yield

    app = FastAPIOffline(  # its /docs takes its scripts from this server, not from a CDN
        redoc_url=None,
        redirect_slashes=False,  # to a path that there is not, the answer is 404
        generate_unique_id_function=lambda route: route.name,  # short names in generated clients
        title="AT2 context attribution",
        description="Which parts of the context did the language model use?",
        version=__version__,
        lifespan=lifespan,
    )
    app.state.engine = engine
    app.state.store = store
    errors.install(app)
    for module in (generations, attribution, openai, status, page):
        app.include_router(module.router)
    operation.equip(app, settings, engine.admission.check)
    metrics: Metrics = app.state.metrics
    app.state.generations = Generations(engine, store, metrics)
    metrics.watch(
        running=lambda: engine.load.generating,
        waiting=lambda: engine.load.generations_waiting + engine.load.attributions_waiting,
        cache_usage=lambda: engine.load.cache_used,
        scoring_passes=lambda: engine.load.scoring_passes,
        accounts=lambda: engine.accounts.all,
    )
    return app


@asynccontextmanager
async def _swept(generations: Generations) -> AsyncIterator[None]:
    """Inside the block, what has expired is forgotten, again and again."""
    sweeping = asyncio.create_task(_sweep(generations))
    try:
        yield
    finally:
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping


async def _sweep(generations: Generations) -> None:
    """Forget what has expired, again and again, from the disk and from memory."""
    while True:
        try:
            await generations.sweep()
        except StoreError as error:
            logger.error("expired generations stay: %s", error)
        await asyncio.sleep(_SWEEP_SECONDS)
