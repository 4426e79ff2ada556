"""The one place where exceptions become HTTP replies, all of one shape."""

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from at2.errors import At2Error, InputError, PromptTooLongError, SpanError
from service.schemas import ErrorBody, ErrorReply

logger = logging.getLogger("at2.service")

_INPUT_CODES: tuple[tuple[type[InputError], str], ...] = (
    (SpanError, "invalid_span"),
    (PromptTooLongError, "context_length_exceeded"),
    (InputError, "invalid_value"),
)


class UnknownGenerationError(Exception):
    """There is no generation of this id: it was deleted, it expired, or it never was."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"no generation {generation_id[:64]!r}")


def reply(
    status: int, message: str, *, kind: str, param: str | None = None, code: str | None = None
) -> JSONResponse:
    """An error reply."""
    body = ErrorReply(error=ErrorBody(message=message, type=kind, param=param, code=code))
    return JSONResponse(body.model_dump(), status_code=status)


def _validation_reply(error: RequestValidationError) -> JSONResponse:
    """The first thing that is wrong with a request's body, path or query."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"][1:]]  # the first part is "body" or "path"
    if first["type"] == "json_invalid":
        return reply(
            400, "the body is not valid JSON", kind="invalid_request_error", code="invalid_json"
        )
    param = ".".join(where) or None
    message = first["msg"].removeprefix("Value error, ")
    if param:
        message = f"{param}: {message}"
    return reply(400, message, kind="invalid_request_error", param=param, code=str(first["type"]))


def install(app: FastAPI) -> None:
    """Register a handler for every exception that a route may raise."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return _validation_reply(error)

    @app.exception_handler(InputError)
    async def input_error(_: Request, error: InputError) -> JSONResponse:
        code = next(code for cls, code in _INPUT_CODES if isinstance(error, cls))
        return reply(400, str(error), kind="invalid_request_error", param=error.param, code=code)

    @app.exception_handler(UnknownGenerationError)
    async def unknown(_: Request, error: UnknownGenerationError) -> JSONResponse:
        return reply(404, str(error), kind="not_found_error", param="id", code="unknown_id")

    @app.exception_handler(At2Error)
    async def model_error(_: Request, error: At2Error) -> JSONResponse:
        logger.error("request failed: %s", error)
        return reply(500, str(error), kind="server_error", code="model_error")

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        kind = "not_found_error" if error.status_code == 404 else "invalid_request_error"
        response = reply(
            error.status_code,
            HTTPStatus(error.status_code).phrase.lower(),
            kind=kind,
            code=HTTPStatus(error.status_code).name.lower(),
        )
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> JSONResponse:
        logger.exception("unexpected error", exc_info=error)
        return reply(500, "internal error", kind="server_error", code="internal_error")


DOCUMENTED: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorReply, "description": "The request cannot be answered as it is."},
    "5XX": {"model": ErrorReply, "description": "The server failed."},
}
"""For the OpenAPI document of every route."""
