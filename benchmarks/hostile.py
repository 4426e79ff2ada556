"""What a few hostile callers cost the others: 32 callers, with and without four that attack.

`python -m benchmarks.hostile`: a real server process, called over a socket; every caller has a key
of its own. The attackers go through all of `tests.helpers.hostile.ATTACKS` again and again as long
as the others are busy. Judged are the times of the others, of `/health`, and the server's memory;
all of it by turns, since only the ratio within a run means something.
"""

import argparse
import asyncio
import itertools
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from multiprocessing import Pipe, get_context
from multiprocessing.connection import Connection

import httpx
import psutil

from tests.helpers import hostile, load
from tests.helpers.processes import running_server

CALLERS = 32
HOSTILE = 4
P99_BAR = 3.0
HEALTH_BAR_MS = 100.0

_TIMEOUT_S = 120.0
_HEALTH_PAUSE_S = 0.02
_KINDS = ("generate", "stream", "attribute", "attribute text", "refused")


@dataclass
class Round:
    """What was seen in one round: seconds, what went wrong, and megabytes."""

    good: list[load.Outcome] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    memory_mb: list[float] = field(default_factory=list)


def _attack(address: str, keys: Sequence[str], names: Sequence[str], results: Connection) -> None:
    """All attackers, in a process of their own: what they do is not to slow down the watch. What
    comes on the connection ends them."""

    async def until_told() -> Counter[int]:
        seen = Counter[int]()
        attacking = asyncio.create_task(hostile.attack(address, keys, seen, names=names))
        await asyncio.to_thread(results.recv)
        attacking.cancel()
        await asyncio.gather(attacking, return_exceptions=True)
        return seen

    results.send(asyncio.run(until_told()))


@contextmanager
def _attacked(
    address: str, keys: Sequence[str], names: Sequence[str], seen: Counter[int]
) -> Iterator[None]:
    """Attackers beside the block; counts the statuses of the replies that they got."""
    here, there = Pipe()
    process = get_context("spawn").Process(
        target=_attack, args=(address, keys, names, there), daemon=True
    )
    process.start()
    try:
        yield
        here.send("over")
        seen += here.recv()
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


async def _call(
    address: str, keys: Sequence[str], jobs: Sequence[tuple[str, load.Body]], seen: Round
) -> None:
    outcomes = await load.send_all(address, jobs, len(keys), keys=keys)
    for outcome in outcomes:
        seen.good.append(outcome)
        seen.wrong[f"{outcome.kind}: status {outcome.status}"] += (
            outcome.status != load.EXPECTED_STATUS[outcome.kind]
        )


async def _round(address: str, process_id: int, keys: Sequence[str], requests: int) -> Round:
    seen = Round()
    kinds = itertools.cycle(_KINDS)
    bodies = itertools.cycle(load.make_questions(len(_KINDS) + 1))
    jobs = [(next(kinds), next(bodies)) for _ in range(requests)]
    watching = asyncio.create_task(_watch(address, process_id, seen))
    try:
        await _call(address, keys, jobs, seen)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return seen


def _shown(name: str, seen: Round) -> str:
    p50, p99 = _percentiles([outcome.seconds for outcome in seen.good])
    _, health = _percentiles(seen.health)
    return (
        f"{name:<16} {p50 * 1000:9.0f} {p99 * 1000:9.0f} {health * 1000:11.0f} "
        f"{max(seen.health) * 1000:11.0f} {seen.memory_mb[0]:9.0f} {max(seen.memory_mb):9.0f}"
    )


def _slowest(seen: Round, count: int = 4) -> str:
    outcomes = sorted(seen.good, key=lambda outcome: -outcome.seconds)[:count]
    return "  slowest: " + ", ".join(f"{o.kind} {o.seconds:.1f} s" for o in outcomes)


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    places = statistics.quantiles(seconds, n=100, method="inclusive")
    return places[49], places[98]


def main() -> None:
    """Print a line for each round, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=300, help="of the others, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--attacks", nargs="+", choices=hostile.ATTACKS, default=list(hostile.ATTACKS)
    )
    options = parser.parse_args()
    print(f"{'':<16} {'p50 ms':>9} {'p99 ms':>9} {'health p99':>11} {'health max':>11} "
          f"{'MB before':>9} {'MB most':>9}")  # fmt: skip
    ratios, wrong, attackers = [], Counter[str](), Counter[int]()
    keys = [f"key-of-caller-number-{number}" for number in range(CALLERS)]
    attacking, good = keys[:HOSTILE], keys[HOSTILE:]
    with running_server(AT2_API_KEYS=",".join(keys)) as (process, address):
        asyncio.run(_round(address, process.pid, good, CALLERS))  # warm
        for _ in range(options.rounds):
            both = {}
            for name in ("alone", "beside hostile"):
                beside = name != "alone"
                attacked = _attacked(address, attacking, options.attacks, attackers)
                with attacked if beside else nullcontext():
                    both[name] = asyncio.run(_round(address, process.pid, good, options.requests))
                print(_shown(name, both[name]), flush=True)
                wrong += both[name].wrong
                print(_slowest(both[name]), flush=True)
            p99 = [_percentiles([o.seconds for o in seen.good])[1] for seen in both.values()]
            ratios.append(p99[1] / p99[0])
    shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"p99 beside hostile callers / alone: {shown} (bar {P99_BAR})")
    print(f"/health: bar {HEALTH_BAR_MS:.0f} ms")
    print(f"wrong replies: {dict(+wrong) or 'none'}")
    print(f"statuses of the attackers: {dict(sorted(attackers.items()))}")


if __name__ == "__main__":
    main()
