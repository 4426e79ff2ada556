"""The server on the bundled model: its start, eight at a time beside one, what HTTP costs, and a
load test.

`python -m benchmarks.serving`: a real server process, called over a socket; the bare calls run in
this process, in turn with those over HTTP.
"""

import asyncio
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import torch
from transformers.utils import logging

from at2.tasks import Document, SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer
from service.engine import Engine, Question, Sampling
from service.records import Prompt
from service.settings import Settings
from tests.helpers import load
from tests.helpers.processes import running_server

CONCURRENCY = 8
SPEEDUP_BAR = 2.0
HTTP_BAR_MS = 5.0
START_BAR_S = 10.0

_TOKENS = 128
_ROUNDS = 4
_REPEATS = 15
_LOAD_REQUESTS = 1000
_LOAD_CALLERS = 32
_SLOTS = 64  # more than callers: who leaves frees its place a moment later
_TIMEOUT_S = 300

(_QUESTION,) = load.questions(1)


def tokens_per_second(address: str, concurrency: int) -> float:
    """Tokens of long sampled responses, each client asking for the next when one is there."""
    body = _QUESTION | {"temperature": 5.0, "max_new_tokens": _TOKENS}

    def ask(seed: int) -> int:
        reply = client.post("/generate", json=body | {"seed": seed}).raise_for_status().json()
        tokens: int = reply["usage"]["completion_tokens"]
        return tokens

    with (
        httpx.Client(base_url=address, timeout=_TIMEOUT_S) as client,
        ThreadPoolExecutor(concurrency) as pool,
    ):
        list(pool.map(ask, range(concurrency)))
        started = time.perf_counter()
        tokens = sum(pool.map(ask, range(_ROUNDS * CONCURRENCY)))
        return tokens / (time.perf_counter() - started)


def bare_tokens_per_second() -> float:
    """The same by transformers' `generate`, one response after the other, without a server."""
    model, tokenizer = get_model_and_tokenizer("bundled", device="cpu")
    task = SimpleContextAttributionTask(
        _QUESTION["context"], _QUESTION["query"], model, tokenizer, source_type="sentence"
    )
    ids = torch.tensor([task.input_ids])
    sampling = {"do_sample": True, "temperature": 5.0, "min_new_tokens": _TOKENS}

    def generate() -> None:
        mask = torch.ones_like(ids)
        model.generate(ids, attention_mask=mask, max_new_tokens=_TOKENS, **sampling)

    generate()
    started = time.perf_counter()
    for _ in range(CONCURRENCY):
        generate()
    return CONCURRENCY * _TOKENS / (time.perf_counter() - started)


def speed(address: str) -> dict[str, float]:
    """Tokens per second of responses one at a time and at once."""
    return {
        "one at a time": tokens_per_second(address, 1),
        f"{CONCURRENCY} at once": tokens_per_second(address, CONCURRENCY),
        "transformers' generate, one at a time": bare_tokens_per_second(),
    }


class _Pair:
    """Durations of the same work over HTTP and as a bare call, in milliseconds."""

    def __init__(self) -> None:
        self.http: list[float] = []
        self.bare: list[float] = []

    def row(self, name: str) -> str:
        http, bare = statistics.median(self.http), statistics.median(self.bare)
        return f"| {name} | {http:.1f} | {bare:.1f} | {http - bare:.1f} |"


async def _layers(address: str) -> dict[str, _Pair]:
    """Every kind of request over HTTP and as a bare call, by turns, a few at a time: threads that
    have just multiplied matrices in this process would slow its client down."""
    engine = Engine(Settings(prepare=False))
    await engine.start()
    prompt = Prompt((Document(_QUESTION["context"]),), _QUESTION["query"], ())
    rows = {name: _Pair() for name in ("/generate", "/attribute, prepared", "/attribute, not yet")}

    async def generate() -> Any:
        generating = await engine.generate(prompt, "sentence", Sampling())
        try:
            return await generating.finished()
        finally:
            generating.close()

    async with httpx.AsyncClient(base_url=address, timeout=_TIMEOUT_S) as client:

        async def timed(into: list[float], work: Any) -> Any:
            started = time.perf_counter()
            result = await work
            into.append((time.perf_counter() - started) * 1000)
            return result

        for _ in range(_ROUNDS):
            for _ in range(_REPEATS):
                post = client.post("/generate", json=_QUESTION)
                reply = await timed(rows["/generate"].http, post)
                question = {"id": reply.raise_for_status().json()["id"]}
                for name in ("/attribute, not yet", "/attribute, prepared"):
                    await timed(rows[name].http, client.post("/attribute", json=question))
            for _ in range(_REPEATS):
                answer = await timed(rows["/generate"].bare, generate())
                for name in ("/attribute, not yet", "/attribute, prepared"):
                    bare = engine.attribute_generation(answer.generation, Question())
                    await timed(rows[name].bare, bare)
    engine.close()
    return rows


def mixed_load(process_id: int, address: str) -> None:
    """A thousand requests of all kinds at once, and ten times more than the server takes."""
    jobs = load.mixed_jobs(_LOAD_REQUESTS)
    expected = load.alone(address, jobs)
    memory: dict[int, float] = {}

    def measure(finished: int) -> None:
        if finished % 100 == 0:
            memory[finished] = load.resident_mb(process_id)

    started = time.perf_counter()
    outcomes = load.send(address, jobs, _LOAD_CALLERS, after=measure)
    seconds = time.perf_counter() - started
    wrong = load.judge(jobs, outcomes, expected)
    print(
        f"\n{_LOAD_REQUESTS} mixed requests, {_LOAD_CALLERS} at once: {seconds:.0f} s, "
        f"{_LOAD_REQUESTS / seconds:.0f}/s; wrong or lost: {dict(wrong) or 'none'}"
    )
    print("memory in MB after each hundred:", ", ".join(f"{mb:.0f}" for mb in memory.values()))
    overload = [("generate", _QUESTION)] * (10 * _SLOTS)
    outcomes = load.send(address, overload, concurrency=len(overload))
    statuses = {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in sorted({outcome.status for outcome in outcomes})
    }
    (after,) = load.send(address, overload[:1], concurrency=1)
    print(
        f"{len(overload)} at once on a server that takes {_SLOTS}: {statuses}; "
        f"the next request: {after.status} after {after.seconds * 1000:.0f} ms"
    )


def main() -> None:
    """Measure and print."""
    logging.disable_progress_bar()
    started = time.perf_counter()
    with running_server(AT2_MAX_REQUESTS=str(_SLOTS), AT2_PREPARE="false") as (_, address):
        seconds = time.perf_counter() - started
        print(f"start to ready: {seconds:.1f} s (bar ≤ {START_BAR_S:g})\n")
        rates = speed(address)
        one = rates["one at a time"]
        print(f"| responses | tokens/s | beside one (bar ≥ {SPEEDUP_BAR:g}) |\n|---|---|---|")
        for name, rate in rates.items():
            print(f"| {name} | {rate:.0f} | {rate / one:.2f} |")
        print(f"\n| call | HTTP ms | bare ms | difference (bar ≤ {HTTP_BAR_MS:g}) |")
        print("|---|---|---|---|")
        for name, pair in asyncio.run(_layers(address)).items():
            print(pair.row(name))
    # stores that are soon full, so that memory which goes on growing is lost
    limits = {"AT2_MAX_RECORDS": "50", "AT2_SCORE_CACHE_MB": "2"}
    with running_server(AT2_MAX_REQUESTS=str(_SLOTS), **limits) as (process, address):
        mixed_load(process.pid, address)


if __name__ == "__main__":
    main()
