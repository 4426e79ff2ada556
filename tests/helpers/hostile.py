"""Callers that attack a server with what is small and asks for much, each with a key of its own.

Knows HTTP only. Used by the tests and by `benchmarks/hostile.py`.
"""

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from tests.helpers.load import ENDLESS

_TIMEOUT_S = 120.0
_PAUSE_S = 0.01
_HELD_S = 1.0
"""How long connections are held that send nothing, or read nothing."""

_CONTEXT = "Priya Nair lives in Lisbon. Omar Whitfield plays the cello in Leeds. "
_MOST_TOKENS = 30
"""That the context has in any tokenizer used here."""
_QUERY = "Where does Priya Nair live?"
_RESPONSE = "Priya Nair lives in Lisbon."


@dataclass(frozen=True)
class Target:
    """What an attack is given.

    Attributes:
        http: a client with the attacker's key.
        address: of the server.
        key: the attacker's.
        connections: how many it opens where one of them does nothing.
        seen: counts the statuses that it gets.
    """

    http: httpx.AsyncClient
    address: str
    key: str
    connections: int
    seen: Counter[int]

    async def send(self, method: str, path: str, **sent: Any) -> httpx.Response:
        """Send a request, and count the reply's status."""
        response = await self.http.request(method, path, **sent)
        self.seen[response.status_code] += 1
        return response

    async def post(self, path: str, body: Any) -> httpx.Response:
        """Send JSON: a text as it is."""
        content = body if isinstance(body, str) else json.dumps(body)
        headers = {"Content-Type": "application/json"}
        return await self.send("POST", path, content=content, headers=headers)

    @asynccontextmanager
    async def held(self, start: bytes) -> AsyncIterator[None]:
        """Connections that begin like this, and then do nothing until the block ends."""
        host, port = self.address.removeprefix("http://").split(":")
        writers = []
        try:
            for _ in range(self.connections):
                _, writer = await asyncio.open_connection(host, int(port), limit=1)
                writers.append(writer)
                writer.write(start)
            yield
        finally:
            for writer in writers:
                writer.transport.abort()

    def head(self, method: str, path: str) -> bytes:
        """The first headers of a request, with the key."""
        headers = f"Host: localhost\r\nAuthorization: Bearer {self.key}"
        return f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode()


Attack = Callable[[Target], Awaitable[None]]


async def _senseless_bodies(target: Target) -> None:
    """Lists of half a million empty objects, and as many brackets."""
    objects = "[" + ",".join(["{}"] * 500_000) + "]"
    for name in ("spans", "documents", "messages"):
        await target.post("/attribute", f'{{"id": "x", "query": "q", "{name}": {objects}}}')
    await target.post("/v1/chat/completions", f'{{"messages": {objects}}}')
    await target.post("/generate", '{"context": ' + "[" * 4_000_000)


async def _replies_of_megabytes(target: Target) -> None:
    """Many equal spans, with all tokens of a context as sources."""
    body = {
        "context": _CONTEXT * 20,
        "query": _QUERY,
        "response": _RESPONSE,
        "source_type": "token",
        "spans": [{"start": 0, "end": len(_RESPONSE)}] * 256,
    }
    for top_k in (10_000, 64):
        await target.post("/attribute", body | {"top_k": top_k})


async def _many_passes(target: Target) -> None:
    """Every word left out, again for each of many words of the response."""
    body = {"context": _CONTEXT * 4, "query": _QUERY, "response": _RESPONSE, "source_type": "word"}
    for method in ("leave_one_out", "context_cite"):
        await target.post("/attribute", body | {"method": method})


async def _verification(target: Target) -> None:
    """Every source of every statement hidden, one after the other."""
    response = " ".join([_RESPONSE] * 6)
    body = {"context": _CONTEXT * 6, "query": _QUERY, "response": response, "top_k": 10_000}
    await target.post("/attribute", body | {"split_by": "sentence", "verify": True})


async def _half_sent(target: Target) -> None:
    """Headers that never end, and bodies."""
    for start in (
        target.head("POST", "/generate") + b"X-Half: ",
        target.head("POST", "/generate") + b"Content-Length: 999\r\n\r\n{",
    ):
        async with target.held(start):
            await asyncio.sleep(_HELD_S)


async def _unread(target: Target) -> None:
    """Replies that nobody reads."""
    async with target.held((target.head("GET", "/openapi.json") + b"\r\n") * 50):
        await asyncio.sleep(_HELD_S)


async def _cancelled_streams(target: Target) -> None:
    """Long responses that nobody waits for."""
    generation = {"context": _CONTEXT, "query": _QUERY} | ENDLESS
    completion = {name: value for name, value in ENDLESS.items() if name != "max_new_tokens"}
    completion |= {"messages": [{"role": "user", "content": _QUERY}], "max_tokens": 1000}
    for path, body in (("/generate", generation), ("/v1/chat/completions", completion)):
        async with target.http.stream("POST", path, json=body | {"stream": True}) as response:
            target.seen[response.status_code] += 1
            async for line in response.aiter_lines():
                if line:
                    break


async def _unknown_ids(target: Target) -> None:
    """What there is not, by every name."""
    for number in range(20):
        name = f"gen-{number:032x}"
        for path in ("", "/prompt", "/export.html"):
            await target.send("GET", f"/generations/{name}{path}")
        await target.send("DELETE", f"/generations/{name}")
        await target.post("/attribute", {"id": name})
    await target.send("GET", "/generations/" + "x" * 8000)


async def _long_prompts(target: Target) -> None:
    """About as long as may be, far longer, and in thousands of turns."""
    turns = [{"role": role, "content": "a"} for role in ("user", "assistant")] * 5000
    most = (await target.send("GET", "/info")).json()["max_context_tokens"]
    long = _CONTEXT * (most // _MOST_TOKENS)
    for context, messages in ((long, []), (long * 100, []), ("A.", turns)):
        body = {"context": context, "query": _QUERY, "messages": messages, "max_new_tokens": 4}
        await target.post("/generate", body)


ATTACKS: Mapping[str, Attack] = {
    "senseless bodies": _senseless_bodies,
    "replies of megabytes": _replies_of_megabytes,
    "many passes": _many_passes,
    "verification": _verification,
    "half-sent requests": _half_sent,
    "replies unread": _unread,
    "cancelled streams": _cancelled_streams,
    "unknown ids": _unknown_ids,
    "long prompts": _long_prompts,
}


async def _attacker(
    address: str,
    key: str,
    attacks: Sequence[Attack],
    rounds: int | None,
    connections: int,
    seen: Counter[int],
) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=address, timeout=_TIMEOUT_S, headers=headers) as http:
        target = Target(http, address, key, connections, seen)
        for _ in itertools.count() if rounds is None else range(rounds):
            for attack in attacks:
                with suppress(httpx.HTTPError, OSError):  # the server may hang up
                    await attack(target)
                await asyncio.sleep(_PAUSE_S)


async def attack(
    address: str,
    keys: Sequence[str],
    seen: Counter[int],
    *,
    names: Sequence[str] = tuple(ATTACKS),
    rounds: int | None = None,
    connections: int = 75,
) -> None:
    """Attack a server with one attacker for each key: each makes all attacks by turns, and begins
    with another.

    Args:
        address: of the server.
        keys: of the attackers.
        seen: counts the statuses of the replies that they get.
        names: of the attacks.
        rounds: how often each makes all attacks; by default until it is cancelled.
        connections: how many one of them opens where each of these does nothing.
    """
    attacks = [ATTACKS[name] for name in names]
    firsts = [round(place * len(attacks) / len(keys)) for place in range(len(keys))]
    await asyncio.gather(
        *(
            _attacker(address, key, attacks[first:] + attacks[:first], rounds, connections, seen)
            for key, first in zip(keys, firsts, strict=True)
        )
    )
