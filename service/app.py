"""Puts the application together around an engine."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi_offline import FastAPIOffline

from at2 import __version__
from service import errors
from service.engine import Engine
from service.records import MemoryStore
from service.routes import attribution, generations, status


def create_app(engine: Engine) -> FastAPI:
    """The application that serves an engine; it owns the engine and closes it at the end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()

    app = FastAPIOffline(  # its /docs takes its scripts from this server, not from a CDN
        redoc_url=None,
        title="AT2 context attribution",
        description="Which parts of the context did the language model use?",
        version=__version__,
        lifespan=lifespan,
    )
    app.state.engine = engine
    app.state.store = MemoryStore(engine.settings.max_records)
    errors.install(app)
    for module in (generations, attribution, status):
        app.include_router(module.router)

    @app.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return app
