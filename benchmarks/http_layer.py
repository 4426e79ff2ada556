"""What HTTP costs above the bare call, by kind of request.

`python -m benchmarks.http_layer`: a real server in a process of its own, called over a socket. The
same process makes the bare calls, by turns with those over HTTP: two processes that do the same
work differ by more than the layer costs.
"""

import argparse
import statistics
import time
from typing import Any

import httpx

from at2.tasks import Document
from service.app import create_app
from service.engine import Engine, Question, Sampling
from service.records import Prompt
from service.server import run
from service.settings import Settings
from tests.helpers import load
from tests.helpers.processes import running_server

BAR_MS = 5.0
_ROUNDS = 40
_BARE = "/bare"
_CALLS = ("/generate", "/attribute, the first", "/attribute, the second")

(_QUESTION,) = load.make_questions(1)


async def bare_calls(engine: Engine) -> list[float]:
    """A generation and two attributions of it, without HTTP: milliseconds of each. Its scores are
    kept as those of a recorded one are."""
    prompt = Prompt((Document(_QUESTION["context"]),), _QUESTION["query"], ())
    started = time.perf_counter()
    generating = await engine.generate(prompt, "sentence", Sampling())
    try:
        answer = await generating.finished()
    finally:
        generating.close()
    found = [(time.perf_counter() - started) * 1000]
    engine.prepare(answer)
    for _ in range(2):
        started = time.perf_counter()
        question = Question(None, engine.loaded.default_method)
        await engine.attribute_generation(answer.generation, question)
        found.append((time.perf_counter() - started) * 1000)
    return found


def http_calls(client: httpx.Client) -> list[float]:
    """The same over HTTP."""
    found = []
    question: dict[str, Any] = _QUESTION
    for path in ("/generate", "/attribute", "/attribute"):
        started = time.perf_counter()
        reply = client.post(path, json=question).raise_for_status()
        found.append((time.perf_counter() - started) * 1000)
        if path == "/generate":
            question = {"id": reply.json()["id"]}
    return found


def serve() -> None:
    """The server as `python -m service` runs it, with one more route that makes the bare calls."""
    settings = Settings()
    app = create_app(Engine(settings))

    @app.post(_BARE)
    async def bare() -> list[float]:
        return await bare_calls(app.state.engine)

    run(app, settings, app.state.lifecycle)


def main() -> None:
    """Measure and print."""
    command = ("benchmarks.http_layer", "--serve")
    with (
        running_server(*command) as (_, address),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        over_http, bare = [], []
        for _ in range(_ROUNDS):
            over_http.append(http_calls(client))
            bare.append(client.post(_BARE).raise_for_status().json())
    print(f"| call | HTTP ms | bare ms | difference of medians (bar ≤ {BAR_MS:g}) |")
    print("|---|---:|---:|---:|")
    for place, name in enumerate(_CALLS):
        one, other = (statistics.median(row[place] for row in rows) for rows in (over_http, bare))
        print(f"| {name} | {one:.1f} | {other:.1f} | {one - other:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    if parser.parse_args().serve:
        serve()
    else:
        main()
