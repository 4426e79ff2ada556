"""A request's body, from bytes to a checked value, without holding up other requests.

JSON is parsed, and checked, in one call each, during which nothing else in the process runs. So
what such a call may cost is bounded first: by the size of a body, by the number of values in it, by
the length of its lists and the number of fields of its objects. Large bodies are read in another
thread, one at a time. The first thing that is wrong ends it.
"""

import asyncio
import json
import math
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)

_SMALL = 65_536
"""Bytes of a body that is read where it stands: a few milliseconds, whatever is in it."""

_MOST_VALUES = 150_000
"""Of a body: three lists of the longest that there may be, of objects with a few fields."""

_MOST_FIELDS = 64
"""Of one object; no request here has as many."""

_MOST_DIGITS = 400
"""Of an integer; one with more is larger than any number with a point."""


class JsonRoute(APIRoute):
    """A route whose body is read by this module."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler that FastAPI makes, given a body that has been read."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        model: Any = self.body_field.field_info.annotation
        one_at_a_time = asyncio.Lock()

        async def handler(request: Request) -> Response:
            content = await request.body()
            if not content or not _is_json(request.headers.get("content-type", "")):
                return await handle(request)
            if len(content) <= _SMALL:
                value = read(content, model)
            else:
                async with one_at_a_time:
                    value = await asyncio.to_thread(read, content, model)
            return await handle(_ReadRequest(request, value))

        return handler


class _ReadRequest(Request):
    """A request whose body has been read already."""

    def __init__(self, request: Request, value: BaseModel) -> None:
        super().__init__(request.scope, request.receive)
        self._value = value

    async def body(self) -> bytes:
        return b"{}"  # all that is asked is whether there is one

    async def json(self) -> BaseModel:
        return self._value


def _is_json(content_type: str) -> bool:
    header = Message()
    header["content-type"] = content_type
    kind, _, subtype = header.get_content_type().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))


def read(content: bytes, model: type[M]) -> M:
    """The value that a body holds.

    Raises:
        RequestValidationError: it holds none; names the first thing that is wrong.
    """
    if len(content) > _SMALL:
        _check_size(content)
    try:
        value = json.loads(content, object_pairs_hook=_object, parse_int=_integer)
    except json.JSONDecodeError as error:
        raise _error("json_invalid", "the body is not valid JSON") from error
    except (ValueError, RecursionError) as error:
        message = "the body cannot be read as JSON: not UTF-8, compressed, or nested too deeply"
        raise _error("json_invalid", message) from error
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise RequestValidationError([first | {"loc": ("body", *first["loc"])}]) from error


def _check_size(content: bytes) -> None:
    """Refuse a body of far too many values, at the cost of copying it a few times.

    Raises:
        RequestValidationError: it has them.
    """
    unescaped = content.replace(rb"\\", b"").replace(rb"\"", b"")
    if unescaped.count(b'"') <= 2 * _MOST_VALUES:
        outside = b"".join(unescaped.split(b'"')[::2])
        if sum(map(outside.count, (b",", b"[", b"{"))) <= _MOST_VALUES:
            return
    raise _error("too_long", f"the body has more than {_MOST_VALUES} values, the most taken here")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) > _MOST_FIELDS:
        message = f"an object in the body has {len(value)} fields; there is none with as many"
        raise _error("extra_forbidden", message)
    return value


def _integer(digits: str) -> int | float:
    """An integer; infinity, which no field takes, for one of far too many digits."""
    return int(digits) if len(digits) <= _MOST_DIGITS else math.inf


def _error(kind: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body",), "msg": message, "input": None}])
