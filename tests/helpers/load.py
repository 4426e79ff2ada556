"""Many requests of every kind at once, each judged against the same request sent alone.

Knows the HTTP interface only. Used by the tests and by `benchmarks/serving.py`.
"""

import asyncio
import itertools
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx

from tests.helpers.replies import alike

_TIMEOUT_S = 120.0

_BUILDINGS = ["library", "museum", "swimming pool", "town hall"]
_HOURS = ["seven", "eight", "nine", "ten", "eleven"]
_NEW_IN_EVERY_REPLY = ("id", "created", "expires")

ENDLESS: dict[str, Any] = {"temperature": 5.0, "seed": 1, "max_new_tokens": 1000}
"""As good as endless: at this temperature, the end is hardly ever drawn."""

Body = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How one request went.

    Attributes:
        kind: which request it was.
        status: of its reply; 0 if there was none.
        seconds: until the last byte.
        reply: what must not depend on other requests.
    """

    kind: str
    status: int
    seconds: float
    reply: Any


def make_questions(count: int) -> list[Body]:
    """Different contexts with a question each, all answered greedily."""
    bodies = []
    for number in range(count):
        hours = [_HOURS[(number + place) % len(_HOURS)] for place in range(len(_BUILDINGS))]
        sentences = [
            f"The {building} opens at {hour}."
            for building, hour in zip(_BUILDINGS, hours, strict=True)
        ]
        building = _BUILDINGS[number % len(_BUILDINGS)]
        bodies.append(
            {
                "context": " ".join(sentences[: 2 + number % 3]),
                "query": f"When does the {building} open?",
            }
        )
    return bodies


def _comparable(reply: Any) -> Any:
    return {key: value for key, value in reply.items() if key not in _NEW_IN_EVERY_REPLY}


async def _generate(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    response = await http.post("/generate", json=body)
    return response.status_code, _comparable(response.json())


async def _stream(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    response = await http.post("/generate", json=body | {"stream": True})
    if response.status_code != 200:
        return response.status_code, response.json()
    *events, end = response.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    events = [event for event in events if not event.startswith(":")]  # what keeps it alive
    *deltas, done = (json.loads(event.removeprefix("data: ")) for event in events)
    generation = done["generation"]
    assert "".join(delta["text"] for delta in deltas) == generation["response"]
    return 200, _comparable(generation)


async def _sample(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    drawn = {"temperature": 2.0, "top_p": 0.9, "seed": 7, "max_new_tokens": 24}
    return await _generate(http, body | drawn)


async def _attribute(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    generation = (await http.post("/generate", json=body)).raise_for_status().json()
    question = {"id": generation["id"], "split_by": "sentence"}
    response = await http.post("/attribute", json=question)
    return response.status_code, _comparable(response.json())


async def _attribute_text(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    question = body | {"response": f"The {_BUILDINGS[0]} opens at {_HOURS[0]}.", "top_k": 2}
    response = await http.post("/attribute", json=question)
    return response.status_code, response.json()


async def _delete(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    generation = (await http.post("/generate", json=body)).raise_for_status().json()
    path = f"/generations/{generation['id']}"
    assert (await http.get(path)).raise_for_status().json() == generation
    deleted = await http.delete(path)
    return deleted.status_code, (await http.get(path)).status_code


async def _attribute_beyond_the_end(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    response = await http.post("/attribute", json=body | {"response": "Yes.", "start": 2, "end": 9})
    return response.status_code, response.json()


async def _disconnect(http: httpx.AsyncClient, body: Body) -> tuple[int, Any]:
    asked = body | ENDLESS | {"stream": True}
    async with http.stream("POST", "/generate", json=asked) as response:
        async for line in response.aiter_lines():
            if line:
                break
    return response.status_code, None


_SENDERS: dict[str, Callable[[httpx.AsyncClient, Body], Awaitable[tuple[int, Any]]]] = {
    "generate": _generate,
    "stream": _stream,
    "sample": _sample,
    "attribute": _attribute,
    "attribute text": _attribute_text,
    "delete": _delete,
    "refused": _attribute_beyond_the_end,
    "disconnect": _disconnect,
}

EXPECTED_STATUS = {kind: 200 for kind in _SENDERS} | {"delete": 204, "refused": 400}


async def _send_one(http: httpx.AsyncClient, kind: str, body: Body) -> Outcome:
    started = time.perf_counter()
    try:
        status, reply = await _SENDERS[kind](http, body)
    except httpx.HTTPStatusError as error:
        status, reply = error.response.status_code, error.response.text
    except httpx.TransportError as error:
        status, reply = 0, repr(error)
    return Outcome(kind, status, time.perf_counter() - started, reply)


async def send_all(
    address: str,
    jobs: Sequence[tuple[str, Body]],
    concurrency: int,
    after: Callable[[int], None] | None = None,
    keys: Sequence[str] = (),
) -> list[Outcome]:
    """See `send`."""
    outcomes: list[Outcome | None] = [None] * len(jobs)
    places = iter(range(len(jobs)))
    finished = itertools.count(1)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=concurrency)
    headers = [{"Authorization": f"Bearer {key}"} for key in keys] or [{}]

    async def caller(http: httpx.AsyncClient) -> None:
        for place in places:
            outcomes[place] = await _send_one(http, *jobs[place])
            if after is not None:
                after(next(finished))

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=address, timeout=_TIMEOUT_S, limits=limits, headers=own)
            )
            for own in headers
        ]
        await asyncio.gather(*(caller(clients[n % len(clients)]) for n in range(concurrency)))
    return [outcome for outcome in outcomes if outcome is not None]


def mixed_jobs(count: int) -> list[tuple[str, Body]]:
    """So many requests of all kinds, about different contexts."""
    kinds = itertools.cycle(_SENDERS)
    bodies = itertools.cycle(make_questions(len(_SENDERS) + 1))  # so that every pair occurs
    return [(next(kinds), next(bodies)) for _ in range(count)]


def send(
    address: str,
    jobs: Sequence[tuple[str, Body]],
    concurrency: int,
    after: Callable[[int], None] | None = None,
    keys: Sequence[str] = (),
) -> list[Outcome]:
    """Send requests, so many at once.

    Args:
        address: of the server.
        jobs: kind and body of each.
        concurrency: callers, each of which sends its next request when the last one is answered.
        after: called with the number of requests finished so far, after each.
        keys: of the callers, who take them by turns; none for a server without.

    Returns:
        How each went, in the order of the jobs.
    """
    return asyncio.run(send_all(address, jobs, concurrency, after, keys))


def send_alone(
    address: str, jobs: Sequence[tuple[str, Body]], keys: Sequence[str] = ()
) -> dict[str, Outcome]:
    """How each different request goes with no other beside it, by its `request_name`."""
    different = {request_name(*job): job for job in jobs}
    outcomes = send(address, list(different.values()), concurrency=1, keys=keys)
    return dict(zip(different, outcomes, strict=True))


def request_name(kind: str, body: Body) -> str:
    """What tells two requests apart."""
    return f"{kind} {json.dumps(body, sort_keys=True)}"


def count_wrong(
    jobs: Sequence[tuple[str, Body]], outcomes: Sequence[Outcome], expected: dict[str, Outcome]
) -> Counter[str]:
    """What went wrong, by kind; empty if each reply has its status and is that of the one alone."""
    wrong: Counter[str] = Counter()
    wrong["lost"] = len(jobs) - len(outcomes)
    for job, outcome in zip(jobs, outcomes, strict=False):
        if outcome.status != EXPECTED_STATUS[outcome.kind]:
            wrong[f"{outcome.kind}: status {outcome.status}"] += 1
        elif not alike(outcome.reply, expected[request_name(*job)].reply):
            wrong[f"{outcome.kind}: another reply"] += 1
    return +wrong
