"""What attributing every response costs while responses are written, and what asking costs later.

`python -m benchmarks.decode_capture`: prompts of 2,000 tokens, 64 new ones, 8 at once, with scores
of every response taken and without, by turns in one process; first tokens of 8 prompts at once;
then `/attribute` by id at every level on a real server, beside an empty request.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any

import httpx
from transformers.utils.logging import disable_progress_bar

from at2.estimator.linear import load_estimator
from at2.model import default
from at2.model.paged import ScoreRecorder
from at2.model.twin import same_weights
from at2.model.weighing import Weighings
from at2.tasks import SimpleContextAttributionTask
from at2.utils import get_model_and_tokenizer
from service.engine.batching import Batcher
from service.engine.loading import weighings_of
from service.engine.sampling import Sampling
from tests.helpers.processes import running_server

RATIO_BAR = 0.95
ATTRIBUTE_BAR_MS = 10.0

AT_ONCE = 8
PROMPT_TOKENS = 2000
NEW_TOKENS = 64
_SHORT_PROMPT_TOKENS = 281
_ROUNDS = 5
_ASKED = 30
_LEVELS = ("document", "paragraph", "sentence", "word", "token")
_QUERY = "How many tulips stand in front of house 7?"


def context(sentences: int, first: int = 0) -> str:
    """Plain sentences, each of its own."""
    return " ".join(
        f"In spring the gardener of house {n} planted {3 * n + 4} tulips beside the gate."
        for n in range(first, first + sentences)
    )


class Writers:
    """Responses to prompts of one length, so many at once, with or without their scores."""

    def __init__(self, model: Any, tokenizer: Any, prompt_tokens: int, at_once: int) -> None:
        self._prompts = [
            self._prompt(model, tokenizer, prompt_tokens, 1000 * number)
            for number in range(at_once)
        ]
        path = default.ESTIMATOR_PATH
        estimators = {default.NAME: load_estimator(path)} if path.exists() else {}
        self.weighings: Weighings = weighings_of(model, estimators)
        cache = at_once * (prompt_tokens + NEW_TOKENS + 64)
        # Without tokens that end a response, all are of one length.
        self._batcher = Batcher(same_weights(model), [], round(1.3 * cache))
        self._batcher.start()

    @staticmethod
    def _prompt(model: Any, tokenizer: Any, tokens: int, first: int) -> list[int]:
        def ids(sentences: int) -> list[int]:
            text = context(sentences, first)
            return SimpleContextAttributionTask(text, _QUERY, model, tokenizer).input_ids

        count = 1
        while len(ids(count + 1)) <= tokens:
            count += max(1, (tokens - len(ids(count))) // 40)
        return ids(count)

    def close(self) -> None:
        """End the batcher."""
        self._batcher.close()

    async def write(self, new_tokens: int, *, scores: bool) -> tuple[float, list[float]]:
        """Tokens per second, and when each response got its first token."""
        started = time.perf_counter()
        recorders = [
            ScoreRecorder(
                self.weighings, (8, len(prompt) - 30), (len(prompt) - 30, len(prompt) - 1)
            )
            if scores
            else None
            for prompt in self._prompts
        ]
        streams = [
            self._batcher.submit(
                prompt, new_tokens, Sampling(), 0, streaming=True, recorder=recorder
            )
            for prompt, recorder in zip(self._prompts, recorders, strict=True)
        ]

        async def read(stream: Any) -> tuple[int, float]:
            count, first = 0, 0.0
            async for ids in stream:
                first = first or time.perf_counter() - started
                count += len(ids)
            return count, first

        found = await asyncio.gather(*map(read, streams))
        for prompt, recorder in zip(self._prompts, recorders, strict=True):
            if recorder is not None:
                taken = recorder.scores((len(prompt), len(prompt) + new_tokens))
                assert taken is not None
        seconds = time.perf_counter() - started
        return sum(count for count, _ in found) / seconds, sorted(first for _, first in found)


def rates(writers: Writers, rounds: int, new_tokens: int) -> dict[bool, list[float]]:
    """Tokens per second with and without scores, by turns that change places every round."""
    asyncio.run(writers.write(2, scores=True))  # the first prompts take longer
    found: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(rounds):
        for scores in (False, True) if turn % 2 else (True, False):
            rate, _ = asyncio.run(writers.write(new_tokens, scores=scores))
            found[scores].append(rate)
            print(f"  {'with' if scores else 'without'} scores: {rate:.1f} tokens/s", flush=True)
    return found


def asking(rounds: int) -> None:
    """`/attribute` by id at every level, beside an empty request."""
    with (
        running_server(AT2_MAX_NEW_TOKENS="256") as (_, address),
        httpx.Client(base_url=address, timeout=600) as client,
    ):
        body = {
            "context": context(PROMPT_TOKENS // 21),
            "query": _QUERY,
            "max_new_tokens": NEW_TOKENS,
        }
        record = client.post("/generate", json=body).raise_for_status().json()
        print(f"prompt of {record['usage']['prompt_tokens']} tokens")
        before = _passes(client)
        empty = _median_ms(client, "/health", None, rounds)
        print(f"empty request: {empty:.1f} ms")
        for level in _LEVELS:
            question = {"id": record["id"], "source_type": level}
            started = time.perf_counter()
            client.post("/attribute", json=question).raise_for_status()
            first = (time.perf_counter() - started) * 1000
            median = _median_ms(client, "/attribute", question, rounds)
            print(
                f"{level}: first {first:.1f} ms, median {median:.1f} ms, "
                f"{median - empty:.1f} ms above the empty one (bar ≤ {ATTRIBUTE_BAR_MS:g})"
            )
        print(f"passes over the model: {_passes(client) - before:g}")


def _median_ms(client: httpx.Client, path: str, body: Any, rounds: int) -> float:
    durations = []
    for _ in range(rounds):
        started = time.perf_counter()
        reply = client.get(path) if body is None else client.post(path, json=body)
        reply.raise_for_status()
        durations.append((time.perf_counter() - started) * 1000)
    return statistics.median(durations)


def _passes(client: httpx.Client) -> float:
    name = "at2_scoring_passes_total"
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--at-once", type=int, default=AT_ONCE)
    parser.add_argument("--prompt-tokens", type=int, default=PROMPT_TOKENS)
    parser.add_argument("--new-tokens", type=int, default=NEW_TOKENS)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--only", choices=("rates", "first", "asking"))
    options = parser.parse_args(arguments)
    disable_progress_bar()
    if options.only in (None, "rates", "first"):
        model, tokenizer = get_model_and_tokenizer(device="cpu")
    if options.only in (None, "rates"):
        writers = Writers(model, tokenizer, options.prompt_tokens, options.at_once)
        found = rates(writers, options.rounds, options.new_tokens)
        writers.close()
        without, with_scores = (statistics.median(found[scores]) for scores in (False, True))
        pairs = [b / a for a, b in zip(found[False], found[True], strict=True)]
        print(
            f"{options.at_once} at once, {options.prompt_tokens} tokens, {options.new_tokens} new: "
            f"{without:.1f} tokens/s without scores, {with_scores:.1f} with those of "
            f"{len(writers.weighings)} ways to weigh, median of ratios "
            f"{statistics.median(pairs):.3f} (bar ≥ {RATIO_BAR:g})"
        )
    if options.only in (None, "first"):
        short = Writers(model, tokenizer, _SHORT_PROMPT_TOKENS, options.at_once)
        for _ in range(options.rounds):
            _, first = asyncio.run(short.write(2, scores=True))
            print(f"first tokens after {', '.join(f'{seconds:.2f}' for seconds in first)} s")
        short.close()
    if options.only in (None, "asking"):
        asking(_ASKED)


if __name__ == "__main__":
    main()
