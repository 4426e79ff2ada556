"""Applications behind a real socket in this process, without a model."""

import asyncio
import io
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import ASGIApp

from at2.errors import InputError
from service import errors, logs, operation
from service.lifecycle import Lifecycle
from service.server import Server
from service.settings import Settings

SECRET = "what a user wrote"
LARGE = 32 * 2**20
"""Bytes of the reply of `/large`: more than sockets hold."""

_START_LIMIT_S = 30.0


def settings(**values: Any) -> Settings:
    """Settings that depend on nothing around the test."""
    return Settings(**({"host": "127.0.0.1", "port": 0} | values))


def small_app(server_settings: Settings) -> FastAPI:
    """An application with the server's whole equipment around a few routes of the test's."""
    app = FastAPI(redoc_url=None)
    app.state.gate = asyncio.Event()  # what waits for it goes on when it is set
    app.state.waiting = threading.Event()
    errors.install(app)

    @app.get("/health")
    @app.get("/ready")
    async def status() -> str:
        return "ok"

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse("<!doctype html>")

    @app.post("/echo/{name}")
    async def echo(name: str, request: Request) -> dict[str, Any]:
        body = await request.body()
        logs.note(size=len(body))
        logs.note_text(query=body.decode())
        return {"size": len(body), "id": request.state.request_id}

    @app.post("/wait")
    async def wait(request: Request) -> str:
        app.state.waiting.set()
        await request.app.state.gate.wait()
        return "done"

    @app.get("/refuse")
    async def refuse() -> None:
        raise InputError("too much", param="query")

    @app.get("/bug")
    async def bug() -> None:
        {}[SECRET]

    @app.get("/large")
    async def large() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(LARGE // len(part)):
                yield part

        part = b"x" * 2**20
        return StreamingResponse(parts(), media_type="text/plain")

    @app.get("/broken-stream")
    async def broken_stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            raise KeyError(SECRET)

        return StreamingResponse(parts(), media_type="text/event-stream")

    operation.equip(app, server_settings)
    return app


@contextmanager
def serving(
    app: ASGIApp, server_settings: Settings, lifecycle: Lifecycle
) -> Iterator[tuple[str, Server]]:
    """Serve an application from a thread; yields its address and its server."""
    server = Server(app, server_settings, lifecycle)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    waited = threading.Event()
    for _ in range(int(_START_LIMIT_S / 0.02)):
        if server.started or not thread.is_alive():
            break
        waited.wait(0.02)
    assert server.started
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        thread.join(_START_LIMIT_S)
        assert not thread.is_alive()


@contextmanager
def logging_restored() -> Iterator[None]:
    """What `logs.configure` changes for the whole process is put back."""
    root = logging.getLogger()
    loggers = [logging.getLogger(name) for name in ("at2", "uvicorn", "uvicorn.access")]
    handlers, levels = root.handlers[:], [logger.level for logger in (root, *loggers)]
    try:
        yield
    finally:
        root.handlers = handlers
        for logger, level in zip((root, *loggers), levels, strict=True):
            logger.setLevel(level)
        logging.captureWarnings(False)


@contextmanager
def logged(level: str) -> Iterator[io.StringIO]:
    """What is logged in the block from a level on, as lines of JSON."""
    with logging_restored():
        stream = io.StringIO()
        logs.configure(level=level, log_format="json", stream=stream)
        yield stream


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a text of Prometheus' says: (name, sorted labels) → value."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
