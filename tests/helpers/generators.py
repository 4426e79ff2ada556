"""OpenAI-compatible servers that write the responses: transformers' own, and a stand-in.

The stand-in speaks as vLLM does, with ids for ids, which nothing that can be installed here does;
it writes what the tiny model writes, and fails in the ways that it is told.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from service.lifecycle import Lifecycle
from tests.helpers.servers import serving, settings
from tests.helpers.tiny import tiny_folder, tiny_pair

_START_LIMIT_S = 300.0


@contextmanager
def transformers_serve() -> Iterator[str]:
    """`transformers serve` with the tiny model, in a process of its own: the address of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = str(Path(sys.executable).parent / "transformers")
    where = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(
        [program, "serve", str(tiny_folder()), *where],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_LIMIT_S
        while True:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.TransportError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


@cache
def greedy_ids(prompt: tuple[int, ...], new_tokens: int) -> tuple[int, ...]:
    """The ids that the tiny model writes, greedily."""
    model, _ = tiny_pair()
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False
    )
    found: list[int] = out[0, len(prompt) :].tolist()
    return tuple(found)


class StandIn:
    """A server whose behaviour a test sets.

    Attributes:
        takes: what it knows: `ids for ids`, `ids`, `text` and `messages`; else it replies 400, and
            404 where it has no such route.
        fault: what is wrong with it, or the status of every reply.
        failures: the statuses of the next replies, before it does what it is asked.
        asked: the bodies of all requests that it was sent, oldest first, and `keys` and
            `traceparents` with them.
        left: set when a client has gone before the end.
        says: what it writes in place of what the model does.
        most: tokens that it writes, whatever it is asked for; None for those.
        going: unless it is set, a response stops after its first token.
    """

    def __init__(self) -> None:
        self.begin_anew()
        self.app = FastAPI()
        self.app.post("/v1/completions")(self._completions)
        self.app.post("/v1/chat/completions")(self._chat)

    def begin_anew(self) -> None:
        """As it was made."""
        self.takes = {"ids for ids", "ids", "text", "messages"}
        self.fault: str | int | None = None
        self.says: str | None = None
        self.most: int | None = None
        self.failures: list[int] = []
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.traceparents: list[str | None] = []
        self.left = threading.Event()
        self.going = threading.Event()
        self.going.set()

    @contextmanager
    def serving(self, port: int = 0) -> Iterator[str]:
        """Serve from a thread, on a free port or this one: the address of its API."""
        server_settings = settings(port=port)
        with serving(self.app, server_settings, Lifecycle()) as (address, _):
            yield f"{address}/v1"

    async def _completions(self, request: Request) -> Response:
        body = await self._noted(request)
        if self.failures:
            return JSONResponse({"error": {"message": "for now"}}, self.failures.pop(0))
        if not self.takes - {"messages"}:
            return JSONResponse({"detail": "Not Found"}, 404)
        given = "text" if isinstance(body["prompt"], str) else "ids"
        form = "ids for ids" if body.get("return_token_ids") else given
        if form not in self.takes:
            return JSONResponse({"error": {"message": f"no {form}"}}, 400)
        _, tokenizer = tiny_pair()
        prompt = tokenizer(body["prompt"]).input_ids if given == "text" else body["prompt"]
        return self._reply(request, prompt, body, form)

    async def _chat(self, request: Request) -> Response:
        body = await self._noted(request)
        if "messages" not in self.takes:
            return JSONResponse({"detail": "Not Found"}, 404)
        _, tokenizer = tiny_pair()
        text = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, tokenize=False
        )
        return self._reply(request, tokenizer(text).input_ids, body, "messages")

    async def _noted(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization"))
        self.traceparents.append(request.headers.get("traceparent"))
        return body

    def _reply(
        self, request: Request, prompt: list[int], body: dict[str, Any], form: str
    ) -> Response:
        if isinstance(self.fault, int):
            return JSONResponse({"error": {"message": "so it is"}}, self.fault)
        if self.fault == "long failure":
            return StreamingResponse(_without_end(), 500)
        if self.fault == "no stream":
            return JSONResponse({"choices": [{"text": "hello"}]})
        most = self.most or body["max_tokens"]
        ids = greedy_ids(tuple(prompt), most) if self.says is None else self._said()
        events = self._events(request, list(ids), form)
        return StreamingResponse(events, media_type="text/event-stream")

    def _said(self) -> list[int]:
        _, tokenizer = tiny_pair()
        return [*tokenizer(self.says).input_ids, tokenizer.eos_token_id]

    async def _events(self, request: Request, ids: list[int], form: str) -> AsyncIterator[str]:
        _, tokenizer = tiny_pair()
        end = tokenizer.eos_token_id
        try:
            for place, token_id in enumerate(ids):
                if place == 1:
                    while not self.going.is_set():
                        if await request.is_disconnected():
                            return
                        await asyncio.sleep(0.01)
                    if self.fault == "cut":
                        return
                    if self.fault == "nonsense":
                        yield "data: {]\n\n"
                    if self.fault == "long line":
                        async for part in _without_end():
                            yield part
                    if self.fault in ("abort", "content_filter"):
                        last = {"index": 0, "text": "", "finish_reason": self.fault}
                        yield f"data: {json.dumps({'choices': [last]})}\n\n"
                    if self.fault == "error":
                        yield 'data: {"error": {"message": "no memory"}}\n\n'
                text = "" if token_id == end else tokenizer.decode([token_id])
                reason = (
                    ("stop" if token_id == end else "length") if place == len(ids) - 1 else None
                )
                choice: dict[str, Any] = {"index": 0, "text": text, "finish_reason": reason}
                if form == "messages":
                    choice = {"index": 0, "delta": {"content": text}, "finish_reason": reason}
                if form == "ids for ids":
                    choice["token_ids"] = [10**6 if self.fault == "other ids" else token_id]
                yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            if not self.going.is_set():
                self.left.set()


async def _without_end() -> AsyncIterator[str]:
    """A line that goes on for as long as it is read."""
    while True:
        yield "x" * 2**20
        await asyncio.sleep(0)
