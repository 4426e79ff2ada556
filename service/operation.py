"""Gives an application what its operator needs: keys, limits, logs, metrics, an orderly stop."""

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from service import middleware
from service.lifecycle import Lifecycle
from service.metrics import Metrics
from service.routes import metrics
from service.security import Keyring, is_open
from service.settings import Settings
from service.tracing import open_traces

_SCHEME = "key"


def equip(app: FastAPI, settings: Settings, check: Callable[[str], None] = lambda _: None) -> None:
    """Wrap the routes of an application in everything that is not a route's business.

    Args:
        app: the application.
        settings: the server's.
        check: raises `BusyError` if a caller's generation or attribution would not be let in now.

    Sets `app.state.metrics` (`Metrics`), `app.state.lifecycle` (`Lifecycle`), `app.state.keys`
    (`Keyring`) and `app.state.traces` (`Traces`, or None), which is to be closed at the end.

    Raises:
        ValueError: the keys, the origins or the trusted hosts in the settings are malformed.
    """
    app.state.keys = keys = Keyring(settings)
    app.state.metrics = Metrics(version=app.version, model=settings.model)
    app.state.lifecycle = Lifecycle()
    app.state.traces = open_traces(app.version)
    app.include_router(metrics.router)
    middleware.install(
        app, settings, keys, app.state.metrics, app.state.traces, app.state.lifecycle, check
    )
    if keys:
        _document_keys(app, settings)
    _write_document_once(app)


def _document_keys(app: FastAPI, settings: Settings) -> None:
    """Say in the OpenAPI document which operations need a key, so that /docs can send one."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        if _SCHEME not in schemes:
            schemes[_SCHEME] = {"type": "http", "scheme": "bearer"}
            for path, operations in document["paths"].items():
                if not is_open(path, open_metrics=settings.open_metrics):
                    for operation in operations.values():
                        operation["security"] = [{_SCHEME: []}]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _write_document_once(app: FastAPI) -> None:
    """Serve the OpenAPI document as bytes that are made once, in another thread: making it takes
    half a second, and writing it out some milliseconds for each reader."""
    content: bytes | None = None
    one_at_a_time = asyncio.Lock()

    async def document(_: Request) -> Response:
        nonlocal content
        async with one_at_a_time:
            if content is None:
                content = await asyncio.to_thread(lambda: bytes(JSONResponse(app.openapi()).body))
        return Response(content, media_type=JSONResponse.media_type)

    own = [route for route in app.routes if getattr(route, "path", None) == app.openapi_url]
    for route in own:
        app.routes.remove(route)
    app.add_route(str(app.openapi_url), document, include_in_schema=False)
