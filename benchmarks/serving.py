"""The server on the default model: its start, eight at a time beside one, and a load test.

`python -m benchmarks.serving`: a real server process, called over a socket.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import torch
from transformers.utils import logging

from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer
from tests.helpers import load
from tests.helpers.processes import running_server

CONCURRENCY = 8
SPEEDUP_BAR = 2.0
START_BAR_S = 15.0

_TOKENS = 128
_ROUNDS = 5
_LOAD_REQUESTS = 1000
_LOAD_CALLERS = 32
_SLOTS = 64  # more than callers: who leaves frees its place a moment later
_TIMEOUT_S = 300

(_QUESTION,) = load.make_questions(1)


class _Clients:
    """Ask a server for long sampled responses, each for the next when one is there."""

    def __init__(self, address: str) -> None:
        self._client = httpx.Client(base_url=address, timeout=_TIMEOUT_S)
        self._body = _QUESTION | {"temperature": 5.0, "max_new_tokens": _TOKENS}

    def __call__(self, concurrency: int) -> int:
        """Get a round's responses, so many at once; the number of their tokens."""
        with ThreadPoolExecutor(concurrency) as pool:
            return sum(pool.map(self._ask, range(CONCURRENCY)))

    def _ask(self, seed: int) -> int:
        reply = self._client.post("/generate", json=self._body | {"seed": seed})
        tokens: int = reply.raise_for_status().json()["usage"]["completion_tokens"]
        return tokens


class _Bare:
    """The same by transformers' `generate`, one response after the other, without a server."""

    def __init__(self) -> None:
        self._model, tokenizer = get_model_and_tokenizer(device="cpu")
        task = SimpleContextAttributionTask(
            _QUESTION["context"], _QUESTION["query"], self._model, tokenizer, source_type="sentence"
        )
        self._ids = torch.tensor([task.input_ids])

    def __call__(self) -> int:
        """Get a round's responses; the number of their tokens."""
        for _ in range(CONCURRENCY):
            self._model.generate(
                self._ids,
                attention_mask=torch.ones_like(self._ids),
                do_sample=True,
                temperature=5.0,
                min_new_tokens=_TOKENS,
                max_new_tokens=_TOKENS,
            )
        return CONCURRENCY * _TOKENS


def speed(address: str) -> dict[str, float]:
    """Tokens per second of responses one at a time and at once, all measured by turns."""
    clients, bare = _Clients(address), _Bare()
    ways: dict[str, Callable[[], int]] = {
        "one at a time": lambda: clients(1),
        f"{CONCURRENCY} at once": lambda: clients(CONCURRENCY),
        "transformers' generate, one at a time": bare,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(_ROUNDS + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            rate = way() / (time.perf_counter() - started)
            if turn:  # the first warms up
                rates[name].append(rate)
    return {name: statistics.median(rounds) for name, rounds in rates.items()}


def mixed_load(process_id: int, address: str) -> None:
    """A thousand requests of all kinds at once, and ten times more than the server takes."""
    jobs = load.mixed_jobs(_LOAD_REQUESTS)
    expected = load.send_alone(address, jobs)
    memory: dict[int, float] = {}

    def measure(finished: int) -> None:
        if finished % 100 == 0:
            memory[finished] = psutil.Process(process_id).memory_info().rss / 2**20

    started = time.perf_counter()
    outcomes = load.send(address, jobs, _LOAD_CALLERS, after=measure)
    seconds = time.perf_counter() - started
    wrong = load.count_wrong(jobs, outcomes, expected)
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


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("speed", "load"))
    only = parser.parse_args(arguments).only
    logging.disable_progress_bar()
    if only != "load":
        started = time.perf_counter()
        with running_server(AT2_MAX_REQUESTS=str(_SLOTS), AT2_PREPARE="false") as (_, address):
            seconds = time.perf_counter() - started
            print(f"start to ready: {seconds:.1f} s (bar ≤ {START_BAR_S:g})\n")
            rates = speed(address)
            one = rates["one at a time"]
            print(f"| responses | tokens/s | beside one (bar ≥ {SPEEDUP_BAR:g}) |\n|---|---|---|")
            for name, rate in rates.items():
                print(f"| {name} | {rate:.0f} | {rate / one:.2f} |")
    if only == "speed":
        return
    # stores that are soon full, so that memory which goes on growing is lost
    limits: dict[str, Any] = {"AT2_MAX_RECORDS": "50", "AT2_SCORE_CACHE_MB": "2"}
    with running_server(AT2_MAX_REQUESTS=str(_SLOTS), **limits) as (process, address):
        mixed_load(process.pid, address)


if __name__ == "__main__":
    main(sys.argv[1:])
