"""The one place where exceptions become HTTP replies, all of one shape."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from at2.errors import (
    At2Error,
    InputError,
    PromptTooLongError,
    SpanError,
    UnsupportedModelError,
)
from service.caller import ClientGoneError
from service.failures import (
    SHOWN,
    BusyError,
    DamagedRecordError,
    DeadlineError,
    EngineDownError,
    GeneratorError,
    GeneratorLateError,
    GeneratorUnavailableError,
    NoMemoryError,
    OtherModelError,
    ServerFailure,
    StoreError,
)
from service.logs import note
from service.reply_schemas import ErrorBody, ErrorReply

logger = logging.getLogger("at2.service")

_INPUT_CODES: tuple[tuple[type[InputError], str], ...] = (
    (SpanError, "invalid_span"),
    (PromptTooLongError, "context_length_exceeded"),
    (InputError, "invalid_value"),
)


_FAILURES: tuple[tuple[type[ServerFailure], int, str, str], ...] = (
    (BusyError, 429, "rate_limit_error", "server_busy"),
    (DeadlineError, 504, "server_error", "deadline_exceeded"),
    (NoMemoryError, 507, "server_error", "out_of_memory"),
    (EngineDownError, 503, "server_error", "engine_down"),
    (GeneratorUnavailableError, 503, "server_error", "generator_unavailable"),
    (GeneratorLateError, 504, "server_error", "generator_late"),
    (GeneratorError, 502, "server_error", "generator_failed"),
    (StoreError, 503, "server_error", "store_unavailable"),
    (OtherModelError, 409, "invalid_request_error", "other_model"),
    (DamagedRecordError, 500, "server_error", "damaged_record"),
)
"""Status, type and code of each failure that is no fault of the request."""

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

_RETRY_AFTER_DOWN = 5
"""Seconds in which an engine that ran out of memory is back, or its process replaced."""


_NO_OBJECT = frozenset({"model_type", "model_attributes_type"})
"""What pydantic calls a body that is JSON, but no object, or that does not say that it is JSON."""


class UnknownGenerationError(Exception):
    """There is no generation of this id: it was deleted, it expired, or it never was."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"no generation {generation_id[:SHOWN]!r}")


class UnknownModelError(Exception):
    """Another model is asked for than the one that is served."""

    def __init__(self, model: str, served: str) -> None:
        super().__init__(f"no model {model[:SHOWN]!r}; the one served here is {served!r}")


def body(
    message: str, *, kind: str, param: str | None = None, code: str | None = None
) -> ErrorReply:
    """An error as it is sent; its type and code go into the request's log line and metrics."""
    note(error_type=kind, error_code=code)
    return ErrorReply(error=ErrorBody(message=message, type=kind, param=param, code=code))


def reply(
    status: int,
    message: str,
    *,
    kind: str,
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """An error reply."""
    content = body(message, kind=kind, param=param, code=code)
    return JSONResponse(content.model_dump(), status, headers)


def event(error: Exception) -> dict[str, Any]:
    """An error in the middle of a reply, whose status is settled already."""
    if isinstance(error, ServerFailure):
        _, kind, code = _of_failure(error)
        return body(str(error), kind=kind, code=code).model_dump()
    if isinstance(error, InputError):  # of what only the server that writes can tell
        return _of_input(error).model_dump()
    if isinstance(error, UnsupportedModelError):
        return _of_unsupported(error).model_dump()
    logger.exception("unexpected error in the middle of a reply", exc_info=error)
    return body("internal error", kind="server_error", code="internal_error").model_dump()


def of_part(error: Exception) -> ErrorBody:
    """An error that costs one part of a reply, and is told in its place."""
    return ErrorBody.model_validate(event(error)["error"])


def _of_input(error: InputError) -> ErrorReply:
    code = next(code for cls, code in _INPUT_CODES if isinstance(error, cls))
    return body(str(error), kind="invalid_request_error", param=error.param, code=code)


def _of_unsupported(error: UnsupportedModelError) -> ErrorReply:
    """No server starts with a model whose attention is out of reach: another method may do."""
    message = f"the model that is served does not support this: {error}"
    return body(message, kind="invalid_request_error", code="unsupported_by_model")


def _of_failure(failure: ServerFailure) -> tuple[int, str, str]:
    for kind_of_failure, status, kind, code in _FAILURES:
        if isinstance(failure, kind_of_failure):
            return status, kind, code
    return 500, "server_error", "internal_error"


def of_failure(failure: ServerFailure) -> JSONResponse:
    """The reply to a request that failed, or was not let in."""
    status, kind, code = _of_failure(failure)
    wait = _RETRY_AFTER_DOWN if status == 503 else None
    if isinstance(failure, BusyError):
        wait = failure.retry_after
    headers = None if wait is None else {"Retry-After": str(wait)}
    return reply(status, str(failure), kind=kind, code=code, headers=headers)


class _NoReply(Response):
    """For a client that has gone away: nothing is sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send nothing."""


def _validation_reply(error: RequestValidationError) -> JSONResponse:
    """The first thing that is wrong with a request's body, path or query."""
    first = error.errors()[0]
    # the first part is "body" or "path"; a field that there is not has any name
    where = [str(part)[:SHOWN] for part in first["loc"][1:]]
    if first["type"] == "json_invalid":
        return reply(400, first["msg"], kind="invalid_request_error", code="invalid_json")
    param = ".".join(where) or None
    message = first["msg"].removeprefix("Value error, ")
    if param:
        message = f"{param}: {message}"
    elif first["loc"] == ("body",) and first["type"] == "missing":
        message = "the body is empty: send an object as JSON"
    elif first["loc"] == ("body",) and first["type"] in _NO_OBJECT:
        message = "the body is no object: send one as JSON, with Content-Type: application/json"
    return reply(400, message, kind="invalid_request_error", param=param, code=str(first["type"]))


def _allowed(request: Request) -> str:
    """The methods that a path has; Starlette names those of its first route only."""

    def has(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(has, _METHODS))


def install(app: FastAPI) -> None:
    """Register a handler for every exception that a route may raise."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _validation_reply(error)

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse(_of_input(error).model_dump(), 400)

    @app.exception_handler(UnsupportedModelError)
    async def unsupported(_: Request, error: UnsupportedModelError) -> JSONResponse:
        return JSONResponse(_of_unsupported(error).model_dump(), 400)

    @app.exception_handler(UnknownGenerationError)
    async def unknown(_: Request, error: UnknownGenerationError) -> JSONResponse:
        return reply(404, str(error), kind="not_found_error", param="id", code="unknown_id")

    @app.exception_handler(UnknownModelError)
    async def unknown_model(_: Request, error: UnknownModelError) -> JSONResponse:
        message = str(error)
        return reply(404, message, kind="not_found_error", param="model", code="model_not_found")

    @app.exception_handler(ServerFailure)
    async def failure(_: Request, error: ServerFailure) -> JSONResponse:
        return of_failure(error)

    @app.exception_handler(ClientGoneError)
    async def client_gone(_: Request, error: ClientGoneError) -> Response:
        return _NoReply()

    @app.exception_handler(At2Error)
    async def model_error(_: Request, error: At2Error) -> JSONResponse:
        logger.error("request failed: %s", error)
        return reply(500, str(error), kind="server_error", code="model_error")

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        status = HTTPStatus(error.status_code)
        kind = "not_found_error" if status == 404 else "invalid_request_error"
        headers = dict(error.headers or {})
        if status == 405:
            headers["Allow"] = _allowed(request)
        return reply(
            status, status.phrase.lower(), kind=kind, code=status.name.lower(), headers=headers
        )

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:
        logger.exception("unexpected error", exc_info=error)
        return reply(500, "internal error", kind="server_error", code="internal_error")


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request cannot be answered as it is."},
    "5XX": {"model": ErrorReply, "description": "The server failed."},
}
"""For the OpenAPI document of every route."""
