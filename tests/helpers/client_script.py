"""A server that says what it is told to, and the two clients of it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse, StreamingResponse

from service.client import (
    AsyncClient,
    Client,
    Retry,
)
from service.reply_schemas import GenerateReply

IMPATIENT = Retry(attempts=3, first_seconds=0.0, most_seconds=5.0)

GENERATION: dict[str, Any] = {
    "id": "gen-1",
    "model": "m",
    "created": 1,
    "expires": None,
    "response": "Ann lives\nin Rome 😀.",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    "sources": [],
    "statements": [],
    "of_a_newer_server": 1,
}
DELTAS = ["Ann", " lives\n", "in Rome ", "😀", "."]
ATTRIBUTION = {
    "id": "gen-1",
    "model": "m",
    "method": "at2",
    "estimator": "e",
    "attributions": [],
}


@dataclass
class Script:
    """What a server says, in order, and what it was asked."""

    replies: list[Callable[[], Response]] = field(default_factory=list)
    asked: list[tuple[str, str, Any, dict[str, str]]] = field(default_factory=list)
    address: str = ""


def json_reply(status: int, content: Any, **headers: str) -> Callable[[], Response]:
    """A reply of JSON."""
    return lambda: JSONResponse(content, status, {k.replace("_", "-"): headers[k] for k in headers})


def error_reply(status: int, code: str, **headers: str) -> Callable[[], Response]:
    """A reply in the shape of errors."""
    content = {"message": "no: " + code, "type": "t", "param": "p", "code": code}
    return json_reply(status, {"error": content}, **headers)


def stream_reply(*parts: bytes, cut: bool = False) -> Callable[[], Response]:
    """A reply in these parts, after which the connection may break."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
            await asyncio.sleep(0)
        if cut:
            raise ConnectionError

    return lambda: StreamingResponse(
        body(), media_type="text/event-stream", headers={"X-Request-ID": "r-9"}
    )


def sse_event(value: Any) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


TEXTS = [sse_event({"type": "delta", "text": text}) for text in DELTAS]
END = [sse_event({"type": "done", "generation": GENERATION}), b"data: [DONE]\n\n"]


class Both:
    """Calls either client in the same words."""

    def __init__(self, asynchronous: bool, address: str, **arguments: Any) -> None:
        self._asynchronous = asynchronous
        self._arguments = {"url": address, "retry": IMPATIENT, **arguments}

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        if not self._asynchronous:
            with Client(**self._arguments) as client:
                return getattr(client, name)(*args, **kwargs)

        async def run() -> Any:
            async with AsyncClient(**self._arguments) as client:
                return await getattr(client, name)(*args, **kwargs)

        return asyncio.run(run())

    def read(self, most: int | None = None, block: bool = True) -> tuple[list[str], GenerateReply]:
        """The texts of a stream, or the first so many, and its generation."""
        texts: list[str] = []
        if not self._asynchronous:
            with Client(**self._arguments) as client:
                stream = client.stream("q", "c")
                if block:
                    with stream:
                        for text in stream:
                            texts.append(text)
                            if len(texts) == most:
                                break
                else:
                    texts += list(stream)
                return texts, stream.generation

        async def run() -> tuple[list[str], GenerateReply]:
            async with AsyncClient(**self._arguments) as client:
                stream = client.stream("q", "c")
                if block:
                    async with stream:
                        async for text in stream:
                            texts.append(text)
                            if len(texts) == most:
                                break
                else:
                    texts.extend([text async for text in stream])
                return texts, stream.generation

        return asyncio.run(run())
