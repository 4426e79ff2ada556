"""What a few hostile callers cost the others: 32 callers, with and without four that attack.

`python -m benchmarks.hostile`: a real server process, called over a socket. The attackers send
senseless bodies, ask for replies of megabytes, half-send requests, and do not read their replies,
again and again as long as the others are busy. Judged are the times of the others, of `/health`,
and the server's memory; all of it by turns, since only the ratio within a run means something.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context

import httpx
import psutil

from tests.helpers import load
from tests.helpers.processes import running_server

CALLERS = 32
HOSTILE = 4
P99_BAR = 3.0
HEALTH_BAR_MS = 100.0

_TIMEOUT_S = 120.0
_CONNECTIONS = 75  # of each attacker that half-sends: 300 in all
_HEALTH_PAUSE_S = 0.02
_KINDS = ("generate", "stream", "attribute", "attribute text", "refused")

Attack = Callable[[str], Awaitable[None]]


@dataclass
class Round:
    """What was seen in one round: seconds, what went wrong, and megabytes."""

    good: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    memory_mb: list[float] = field(default_factory=list)


async def _post(address: str, content: str) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=_TIMEOUT_S) as http:
        headers = {"Content-Type": "application/json"}
        await http.post("/attribute", content=content, headers=headers)


async def _senseless(address: str) -> None:
    """Lists of half a million empty objects."""
    objects = "[" + ",".join(["{}"] * 500_000) + "]"
    for name in ("spans", "documents", "messages"):
        await _post(address, f'{{"id": "x", "query": "q", "{name}": {objects}}}')


async def _megabytes(address: str) -> None:
    """Many equal spans, with all tokens of a context as sources."""
    body = {
        "context": "Priya Nair lives in Lisbon. " * 60,
        "query": "Where does Priya Nair live?",
        "response": "Priya Nair lives in Lisbon.",
        "source_type": "token",
        "top_k": 10_000,
        "spans": [{"start": 0, "end": 34}] * 256,
    }
    await _post(address, json.dumps(body))


async def _half_sent(address: str) -> None:
    """Headers that never end, on as many connections as there may be."""
    host, port = address.removeprefix("http://").split(":")
    writers = []
    with suppress(OSError):
        for _ in range(_CONNECTIONS):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX-Half: ")
            writers.append(writer)
        await asyncio.sleep(1.0)
    for writer in writers:
        writer.close()


async def _unread(address: str) -> None:
    """Replies that nobody reads."""
    host, port = address.removeprefix("http://").split(":")
    writers = []
    with suppress(OSError):
        for _ in range(_CONNECTIONS // 5):
            _, writer = await asyncio.open_connection(host, int(port), limit=1)
            writer.write(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)
            writers.append(writer)
        await asyncio.sleep(1.0)
    for writer in writers:
        writer.transport.abort()


ATTACKS: Sequence[Attack] = (_senseless, _megabytes, _half_sent, _unread)


async def _again_and_again(attack: Attack, address: str) -> None:
    while True:
        with suppress(httpx.HTTPError, OSError):
            await attack(address)
        await asyncio.sleep(0.01)


def _attack(address: str) -> None:
    """All attackers, in a process of their own: what they do is not to slow down the watch."""

    async def attack() -> None:
        await asyncio.gather(*(_again_and_again(one, address) for one in ATTACKS))

    asyncio.run(attack())


@contextmanager
def _attacked(address: str) -> Iterator[None]:
    process = get_context("spawn").Process(target=_attack, args=(address,), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


async def _watch(address: str, process_id: int, seen: Round) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=_TIMEOUT_S) as http:
        while True:
            started = time.perf_counter()
            status = (await http.get("/health")).status_code
            seen.health.append(time.perf_counter() - started)
            seen.wrong["/health"] += status != 200
            seen.memory_mb.append(psutil.Process(process_id).memory_info().rss / 2**20)
            await asyncio.sleep(_HEALTH_PAUSE_S)


async def _call(address: str, jobs: Sequence[tuple[str, load.Body]], seen: Round) -> None:
    outcomes = await load.send_all(address, jobs, CALLERS - HOSTILE)
    for outcome in outcomes:
        seen.good.append(outcome.seconds)
        seen.wrong[f"{outcome.kind}: status {outcome.status}"] += (
            outcome.status != load.EXPECTED_STATUS[outcome.kind]
        )


async def _round(address: str, process_id: int, requests: int) -> Round:
    seen = Round()
    kinds = itertools.cycle(_KINDS)
    bodies = itertools.cycle(load.make_questions(len(_KINDS) + 1))
    jobs = [(next(kinds), next(bodies)) for _ in range(requests)]
    watching = asyncio.create_task(_watch(address, process_id, seen))
    try:
        await _call(address, jobs, seen)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return seen


def _shown(name: str, seen: Round) -> str:
    p50, p99 = _percentiles(seen.good)
    _, health = _percentiles(seen.health)
    return (
        f"{name:<16} {p50 * 1000:9.0f} {p99 * 1000:9.0f} {health * 1000:11.0f} "
        f"{max(seen.health) * 1000:11.0f} {seen.memory_mb[0]:9.0f} {max(seen.memory_mb):9.0f}"
    )


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    places = statistics.quantiles(seconds, n=100, method="inclusive")
    return places[49], places[98]


def main() -> None:
    """Print a line for each round, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=300, help="of the others, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':<16} {'p50 ms':>9} {'p99 ms':>9} {'health p99':>11} {'health max':>11} "
          f"{'MB before':>9} {'MB most':>9}")  # fmt: skip
    ratios, wrong = [], Counter[str]()
    with running_server() as (process, address):
        asyncio.run(_round(address, process.pid, CALLERS))  # warm
        for _ in range(options.rounds):
            both = {}
            for name, company in {"alone": nullcontext, "beside hostile": _attacked}.items():
                with company(address):
                    both[name] = asyncio.run(_round(address, process.pid, options.requests))
                print(_shown(name, both[name]), flush=True)
                wrong += both[name].wrong
            p99 = [_percentiles(seen.good)[1] for seen in both.values()]
            ratios.append(p99[1] / p99[0])
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"p99 beside hostile callers / alone: {shown} (bar {P99_BAR})")
    print(f"/health: bar {HEALTH_BAR_MS:.0f} ms")
    print(f"wrong replies: {dict(+wrong) or 'none'}")


if __name__ == "__main__":
    main()
