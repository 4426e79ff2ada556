"""Scores go to the store of the replicas behind the reply, and are used as they come from there."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from at2.tasks import Document
from service.engine import Engine, Question
from service.records import Generation, Prompt
from service.settings import Settings
from tests.helpers.engines import answer_of
from tests.helpers.tiny import tiny_settings

PROMPT = Prompt(
    (Document("Charlotte Bennett lives in Lisbon. Omar Whitfield plays the cello."),),
    "Where does Charlotte Bennett live?",
    (),
)
STATEMENTS = Question("sentence", "at2")


class Shelf:
    """Keeps scores in this process, once it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.kept: dict[str, bytes] = {}
        self.changed = asyncio.Event()
        self.fails = False

    async def put_scores(self, generation_id: str, scores: bytes) -> None:
        await self.open.wait()
        self.changed.set()
        if self.fails:
            raise RuntimeError("the shelf is broken")
        self.kept[generation_id] = scores

    async def get_scores(self, generation_id: str) -> bytes | None:
        return self.kept.get(generation_id)


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner) -> Iterator[Engine]:
    """One that keeps no scores in its memory."""
    engine = Engine(Settings(**tiny_settings(), score_cache_mb=0))
    runner.run(engine.start())
    yield engine
    engine.close()


async def _shared(engine: Engine) -> tuple[Shelf, Generation]:
    """A shelf that holds the scores of a generation."""
    shelf = Shelf()
    shelf.open.set()
    engine.share_scores(shelf)
    generation = (await answer_of(engine, PROMPT)).generation
    while generation.id not in shelf.kept:
        await asyncio.sleep(0.01)
    return shelf, generation


def _run(runner: asyncio.Runner, work: Coroutine[Any, Any, None]) -> None:
    runner.run(asyncio.wait_for(work, 120))


def test_nobody_waits_for_scores_to_be_written(
    engine: Engine, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        shelf = Shelf()
        engine.share_scores(shelf)
        first = await answer_of(engine, PROMPT)
        assert (await engine.attribute_generation(first.generation, STATEMENTS)).attributions
        assert not shelf.kept
        shelf.fails = True
        shelf.open.set()
        await shelf.changed.wait()
        assert not shelf.kept
        shelf.fails = False
        second = await answer_of(engine, PROMPT)
        while second.generation.id not in shelf.kept:
            await asyncio.sleep(0.01)
        assert f"scores of generation {first.generation.id} are not shared" in caplog.text

    _run(runner, main())


def test_scores_that_do_not_fit_the_memory_are_used_as_they_come(
    engine: Engine, runner: asyncio.Runner
) -> None:
    async def main() -> None:
        shelf, generation = await _shared(engine)
        shelf.changed.clear()
        before = engine.load.scoring_passes
        for _ in range(2):
            assert (await engine.attribute_generation(generation, STATEMENTS)).attributions
            assert "Charlotte" in await engine.page_of_generation(generation, STATEMENTS)
        assert engine.load.scoring_passes == before
        assert not shelf.changed.is_set()  # nor are they written again

        async def scores(method: str) -> list[float]:
            question = Question("sentence", method, min_share=0.0)
            found = await engine.attribute_generation(generation, question)
            return [source.score for one in found.attributions for source in one.sources]

        methods = ("at2", "average_attention", "contrastive_attention")
        shared = [await scores(method) for method in methods]
        assert engine.load.scoring_passes == before
        shelf.kept.clear()
        for method, expected in zip(methods, shared, strict=True):
            assert await scores(method) == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert engine.load.scoring_passes > before

    _run(runner, main())


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-40], lambda data: b"{}"])
def test_damaged_scores_are_computed_again(
    engine: Engine,
    runner: asyncio.Runner,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[bytes], bytes],
) -> None:
    async def main() -> None:
        shelf, generation = await _shared(engine)
        expected = await engine.attribute_generation(generation, STATEMENTS)
        shelf.kept[generation.id] = damage(shelf.kept[generation.id])
        found = await engine.attribute_generation(generation, STATEMENTS)
        assert [one.sources[0].source for one in found.attributions] == [
            one.sources[0].source for one in expected.attributions
        ]
        assert f"scores of generation {generation.id} are damaged" in caplog.text

    _run(runner, main())
