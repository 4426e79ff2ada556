"""Where batches do not give what the model gives, responses are generated one at a time."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from at2.model.twin import same_weights
from service.engine import Engine
from service.engine.batch_check import GenerationWay, choose_way
from service.engine.batching import Batcher
from service.engine.one_by_one import OneByOne
from service.engine.sampling import Sampling
from service.engine.token_stream import TokenStream
from service.failures import EngineDownError
from service.settings import Settings
from tests.helpers.models import random_ids, tiny_model
from tests.helpers.tokenizers import tiny_tokenizer

CACHE = 256
NEW_TOKENS = 10
PROMPTS = [random_ids(count, seed=count).tolist() for count in (5, 23, 40)]
GREEDY, WARM = Sampling(), Sampling(temperature=2.0, top_p=0.9)
LONG_ROPE: dict[str, Any] = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "short_factor": [1.0] * 4,
        "long_factor": [9.0] * 4,
    },
    "original_max_position_embeddings": 64,
}


def alone(model: Any, prompt: Sequence[int]) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
    )
    ids: list[int] = output[0, len(prompt) :].tolist()
    return ids


async def ids_of(stream: TokenStream) -> list[int]:
    return [token async for new in stream for token in new]


@asynccontextmanager
async def chosen(
    model: Any, batched: Any = None, longest: int = CACHE
) -> AsyncIterator[tuple[Batcher | OneByOne, GenerationWay]]:
    batcher = Batcher(same_weights(model if batched is None else batched), [], CACHE)
    batcher.start()
    writer, way = await choose_way(model, batcher, [], longest)
    assert way.batched == (writer is batcher)
    try:
        yield writer, way
    finally:
        writer.close()


@asynccontextmanager
async def one_by_one(model: Any) -> AsyncIterator[OneByOne]:
    writer = OneByOne(same_weights(model), [], CACHE)
    writer.start()
    try:
        yield writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("family", "settings", "longest", "batched", "said"),
    [
        ("llama", {}, CACHE, True, None),
        ("mistral", {}, CACHE, True, None),
        ("gemma2", {}, CACHE, False, "leaves out the cap"),
        ("opt", {}, CACHE, False, "fails in batches"),
        ("phi3", LONG_ROPE, 65, False, "follow the longest sequence"),
        ("phi3", LONG_ROPE, 64, True, None),
    ],
)
def test_every_model_generates_what_it_would_alone(
    family: str, settings: dict[str, Any], longest: int, batched: bool, said: str | None
) -> None:
    model = tiny_model(family, **settings)

    async def main() -> list[list[int]]:
        async with chosen(model, longest=longest) as (writer, way):
            assert way.batched == batched
            assert said is None or (way.reason is not None and said in way.reason)
            streams = [
                writer.submit(prompt, NEW_TOKENS, GREEDY, 0, streaming=bool(len(prompt) % 2))
                for prompt in PROMPTS
            ]
            assert writer.load.running == 3
            found = await asyncio.gather(*map(ids_of, streams))
            assert writer.load.running == writer.load.tokens == 0
            return found

    assert asyncio.run(main()) == [alone(model, prompt) for prompt in PROMPTS]


def test_a_batcher_that_computes_something_else_is_not_taken() -> None:
    model, other = tiny_model("llama"), tiny_model("llama")
    with torch.no_grad():
        other.model.layers[0].self_attn.q_proj.weight *= 1.1

    async def main() -> None:
        async with chosen(model, batched=other) as (writer, way):
            assert "batched logits differ" in str(way.reason)
            stream = writer.submit(PROMPTS[0], NEW_TOKENS, GREEDY, 0, streaming=False)
            assert await ids_of(stream) == alone(model, PROMPTS[0])

    asyncio.run(main())


def test_a_seeded_draw_is_the_batchers() -> None:
    model = tiny_model("llama")

    async def main() -> None:
        async with chosen(model) as (batcher, _), one_by_one(model) as slow:
            draws = [
                await ids_of(writer.submit(PROMPTS[1], NEW_TOKENS, WARM, seed, streaming=True))
                for seed in (1, 2)
                for writer in (batcher, slow)
            ]
        assert draws[0] == draws[1] and draws[2] == draws[3] and draws[0] != draws[2]

    asyncio.run(main())


def test_ids_come_as_they_are_made_and_none_after_closing() -> None:
    model = tiny_model("llama")

    async def main() -> None:
        async with one_by_one(model) as writer:
            long = writer.submit(PROMPTS[0], 200, GREEDY, 0, streaming=True)
            waiting = writer.submit(PROMPTS[1], 200, GREEDY, 0, streaming=True)
            after = writer.submit(PROMPTS[2], NEW_TOKENS, GREEDY, 0, streaming=True)
            pieces = aiter(long)
            assert [len(await anext(pieces)) for _ in range(2)] == [1, 1]
            waiting.close()
            long.close()
            assert await ids_of(after) == alone(model, PROMPTS[2])
            assert writer.load.running == 0

    asyncio.run(main())


def test_what_fails_takes_no_other_with_it() -> None:
    model = tiny_model("llama")

    async def main() -> None:
        async with one_by_one(model) as writer:
            wrong = writer.submit([10**6], NEW_TOKENS, GREEDY, 0, streaming=False)
            right = writer.submit(PROMPTS[0], NEW_TOKENS, GREEDY, 0, streaming=False)
            with pytest.raises(EngineDownError):
                await ids_of(wrong)
            assert await ids_of(right) == alone(model, PROMPTS[0])
            assert writer.alive
            with pytest.raises(ValueError, match="257 tokens"):
                writer.submit([1], CACHE, GREEDY, 0, streaming=False)

            running = writer.submit(PROMPTS[0], 200, GREEDY, 0, streaming=False)
            writer.close()
            with pytest.raises(EngineDownError):
                await ids_of(running)
            assert writer.dead
            with pytest.raises(EngineDownError):
                writer.submit(PROMPTS[0], 1, GREEDY, 0, streaming=False)

    asyncio.run(main())


def test_the_server_says_which_way_it_took(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer("byte_level")
    tiny_model("gemma2", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = Settings(model=str(tmp_path), device="cpu", cache_tokens=CACHE)

    async def main() -> None:
        engine = Engine(settings)
        try:
            await engine.start()
            assert engine.ready
            assert not engine.generation_way.batched
            assert "cap" in str(engine.generation_way.reason)
        finally:
            engine.close()

    asyncio.run(main())
