"""Attribution and generation in turns, on a whole engine with a tiny model that never ends.

What has to happen at a certain moment happens in a hook of the model, before one of its passes.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from at2.tasks import Document
from service.caller import Caller, ClientGoneError, Departure
from service.engine import Engine, Generating, Question, Sampling
from service.failures import BusyError, DeadlineError, EngineDownError
from service.records import Prompt
from service.settings import Settings
from tests.helpers.engines import save_endless_model

WORDS = 150
CONTEXT = Prompt((Document(" ".join(["fox", "dog", "and"] * (WORDS // 3))),), "who?", ())
SHORT = Prompt((Document("The quick brown fox. The lazy dog."),), "who?", ())
RESPONSE = "the dog"
LONG = Question(None, "leave_one_out", source_type="word")
QUICK = Question(None, "average_attention")
NEW_TOKENS = 300
ENDLESS = Sampling(max_new_tokens=NEW_TOKENS)
CACHE_TOKENS = 512
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("model")
    save_endless_model(folder, CACHE_TOKENS)
    engine = Engine(
        Settings(
            model=str(folder),
            device="cpu",
            max_requests=8,
            max_requests_per_key=5,
            max_long_attributions=2,
            cache_tokens=CACHE_TOKENS,
        )
    )
    runner.run(engine.start())
    yield engine
    engine.close()


@pytest.fixture()
def run(runner: asyncio.Runner) -> Run:
    return lambda work: runner.run(asyncio.wait_for(work, 300))


class Held:
    """Stops the engine's attributions before a pass until they may go on, and counts passes."""

    def __init__(self, engine: Engine, number: int) -> None:
        self._number = number
        self._reached, self._go_on = threading.Event(), threading.Event()
        self.passes = 0
        self._hook = engine.loaded.model.register_forward_pre_hook(self._before)

    def _before(self, *_: object) -> None:
        self.passes += 1
        if self.passes == self._number:
            self._reached.set()
            self._go_on.wait()

    async def reached(self) -> None:
        await asyncio.to_thread(self._reached.wait)

    def go_on(self) -> None:
        self._go_on.set()

    def end(self) -> None:
        self._go_on.set()
        self._hook.remove()


@pytest.fixture()
def held(engine: Engine) -> Iterator[Held]:
    held = Held(engine, 20)
    yield held
    held.end()


async def _until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.002)


def _ask(
    engine: Engine, question: Question, caller: Caller, order: list[str], prompt: Prompt = CONTEXT
) -> "asyncio.Task[Any]":
    """An attribution whose method is noted when it has been answered."""
    asked = asyncio.ensure_future(engine.attribute_response(prompt, RESPONSE, question, caller))
    asked.add_done_callback(lambda _: order.append(question.method))
    return asked


async def _expect_the_same(engine: Engine, found: Any, question: Question) -> None:
    alone = await engine.attribute_response(CONTEXT, RESPONSE, question)
    assert found.attributions == alone.attributions


# -- attribution -----------------------------------------------------------------------------------


def test_a_short_attribution_of_another_key_finishes_before_a_long_one_that_has_begun(
    engine: Engine, run: Run, held: Held
) -> None:
    async def main() -> None:
        order: list[str] = []
        long = _ask(engine, LONG, Caller("one"), order)
        await held.reached()
        short = _ask(engine, QUICK, Caller("other"), order)
        await _until(lambda: engine.load.attributions_waiting == 1)
        before = engine.load.scoring_passes
        held.go_on()
        await asyncio.gather(long, short)
        assert order == ["average_attention", "leave_one_out"]
        assert engine.load.scoring_passes - before > WORDS / 8  # most of the long one was to come
        # and being set aside changed nothing
        await _expect_the_same(engine, long.result(), LONG)
        await _expect_the_same(engine, short.result(), QUICK)

    run(main())


def test_methods_with_gradients_run_between_the_passes_of_others(
    engine: Engine, run: Run, held: Held
) -> None:
    gradients = Question(None, "gradient_norm")

    async def main() -> None:
        order: list[str] = []
        long = _ask(engine, LONG, Caller("one"), order)
        await held.reached()
        short = _ask(engine, gradients, Caller("other"), order)
        await _until(lambda: engine.load.attributions_waiting == 1)
        held.go_on()
        await asyncio.gather(long, short)
        assert order == ["gradient_norm", "leave_one_out"]
        await _expect_the_same(engine, short.result(), gradients)

    run(main())


def test_a_verification_makes_way_too(engine: Engine, run: Run, held: Held) -> None:
    verify = Question(None, "position", source_type="word", top_k=60, verify=True)

    async def main() -> None:
        order: list[str] = []
        long = _ask(engine, verify, Caller("one"), order)
        await held.reached()
        short = _ask(engine, QUICK, Caller("other"), order)
        await _until(lambda: engine.load.attributions_waiting == 1)
        held.go_on()
        await asyncio.gather(long, short)
        assert order == ["average_attention", "position"]

    run(main())


@pytest.mark.parametrize(
    ("why", "error"),
    [
        (Departure.LATE, DeadlineError),
        (Departure.GONE, ClientGoneError),
        (Departure.STOPPING, EngineDownError),
    ],
)
def test_a_long_attribution_that_is_given_up_takes_nobody_along(
    engine: Engine, run: Run, held: Held, why: Departure, error: type[Exception]
) -> None:
    async def main() -> None:
        caller = Caller("one")
        long = _ask(engine, LONG, caller, [])
        await held.reached()
        short = _ask(engine, QUICK, Caller("other"), [])
        await _until(lambda: engine.load.attributions_waiting == 1)
        caller.leave(why)
        with pytest.raises(error):
            await long
        assert engine.load.in_progress == 1  # the place is free though its pass still runs
        held.go_on()
        await _expect_the_same(engine, await short, QUICK)
        assert held.passes < WORDS / 4
        assert engine.load.in_progress == 0

    run(main())


def test_attributions_of_many_passes_have_a_quota(engine: Engine, run: Run, held: Held) -> None:
    async def main() -> None:
        first = _ask(engine, LONG, Caller("one"), [])
        await held.reached()
        with pytest.raises(BusyError, match="of your attributions of many passes"):
            await engine.attribute_response(CONTEXT, RESPONSE, LONG, Caller("one"))
        second = _ask(engine, LONG, Caller("other"), [])
        await _until(lambda: engine.load.attributions_waiting == 1)
        with pytest.raises(BusyError, match="2 attributions of many passes"):
            await engine.attribute_response(CONTEXT, RESPONSE, LONG, Caller("third"))
        few = _ask(engine, LONG, Caller("third"), [], SHORT)  # the same method, a few passes
        await _until(lambda: engine.load.attributions_waiting == 2)
        held.go_on()
        await asyncio.gather(first, second, few)
        await engine.attribute_response(CONTEXT, RESPONSE, LONG, Caller("third"))
        assert engine.accounts.of("third").refused == 1

    run(main())


def test_what_a_question_gets_wrong_is_told_without_waiting_for_a_turn(
    engine: Engine, run: Run, held: Held
) -> None:
    async def main() -> None:
        long = _ask(engine, LONG, Caller("one"), [])
        await held.reached()
        with pytest.raises(Exception, match="99"):
            await engine.attribute_response(CONTEXT, RESPONSE, Question([(0, 99)], QUICK.method))
        assert not long.done()
        held.go_on()
        await long

    run(main())


def test_each_keys_tokens_and_waits_are_written_down(engine: Engine, run: Run, held: Held) -> None:
    async def main() -> None:
        long = _ask(engine, LONG, Caller("account one"), [])
        await held.reached()
        short = _ask(engine, QUICK, Caller("account other"), [])
        await _until(lambda: engine.load.attributions_waiting == 1)
        held.go_on()
        await asyncio.gather(long, short)
        one, other = engine.accounts.of("account one"), engine.accounts.of("account other")
        assert WORDS < other.scored_tokens < CACHE_TOKENS
        assert one.scored_tokens > 100 * other.scored_tokens / 2
        assert other.waited > 0

    run(main())


def test_nothing_is_prepared_while_a_response_is_written(engine: Engine, run: Run) -> None:
    async def main() -> None:
        written = await (await _generate(engine)).finished()
        answer = await engine.answer(written.generation)  # as it is read from a record
        other = await _generate(engine)
        await _first_piece(other)
        passes, kept = engine.load.scoring_passes, engine.load.score_bytes
        engine.prepare(answer)
        await engine.attribute_response(SHORT, RESPONSE, QUICK)  # what is asked for is done
        assert engine.load.scoring_passes == passes + 1
        other.close()
        await _until(lambda: engine.load.score_bytes > kept)
        assert engine.load.scoring_passes == passes + 2

    run(main())


# -- generation ------------------------------------------------------------------------------------


async def _generate(engine: Engine, key: str = "") -> Generating:
    return await engine.generate(SHORT, "sentence", ENDLESS, Caller(key))


async def _first_piece(generating: Generating) -> None:
    async for _ in generating:
        return


def test_one_key_cannot_hold_all_places(engine: Engine, run: Run) -> None:
    async def main() -> None:
        running = [await _generate(engine, "greedy") for _ in range(5)]
        with pytest.raises(BusyError, match="5 of your requests") as caught:
            await _generate(engine, "greedy")
        assert caught.value.retry_after >= 1
        await engine.attribute_response(SHORT, RESPONSE, QUICK, Caller("modest"))
        for generating in running:
            generating.close()
        assert engine.load.in_progress == 0
        assert engine.accounts.of("greedy").refused == 1

    run(main())


def test_generations_that_wait_are_counted_and_get_room_by_key(engine: Engine, run: Run) -> None:
    async def main() -> None:
        running = [await _generate(engine, "much") for _ in range(5)]
        begun = 5 - engine.load.generations_waiting
        assert 0 < begun < 5  # the cache is full
        little = await _generate(engine, "little")
        assert engine.load.generations_waiting == 6 - begun
        for generating in running[:begun]:
            generating.close()
            if engine.load.generations_waiting == 5 - begun:
                break
        await _first_piece(little)  # though others have waited longer
        little.close()
        for generating in running:
            generating.close()
        assert engine.load.generations_waiting == engine.load.in_progress == 0
        await asyncio.sleep(0)
        assert engine.accounts.of("little").waited > 0
        assert engine.accounts.of("little").new_tokens >= 1

    run(main())


def test_who_leaves_while_waiting_for_room_gives_up_the_place(engine: Engine, run: Run) -> None:
    async def main() -> None:
        running = [await _generate(engine, "stays") for _ in range(4)]
        waiting = engine.load.generations_waiting
        assert waiting > 0
        caller = Caller("leaves")
        leaving = await engine.generate(SHORT, "sentence", ENDLESS, caller)
        finished = asyncio.ensure_future(leaving.finished())
        await asyncio.sleep(0)
        caller.leave(Departure.LATE)
        with pytest.raises(DeadlineError):
            await finished
        leaving.close()
        assert engine.load.generations_waiting == waiting
        for generating in running:
            generating.close()
        assert engine.load.in_progress == engine.load.generations_waiting == 0
        await _first_piece(again := await _generate(engine))  # all the room is there again
        again.close()

    run(main())


def test_a_deadline_keeps_what_there_is(engine: Engine, run: Run) -> None:
    async def main() -> None:
        caller = Caller()
        generating = await engine.generate(SHORT, "sentence", ENDLESS, caller)
        pieces = []
        async for piece in generating:
            pieces.append(piece)
            if len(pieces) == 3:
                caller.leave(Departure.LATE)
        answer = generating.answer
        assert answer.generation.finish_reason == "deadline"
        assert answer.generation.response == "".join(pieces)
        assert 3 <= len(answer.generation.response_ids) < NEW_TOKENS
        generating.close()
        assert engine.load.in_progress == engine.load.generating == 0
        # what there is begins what there would have been
        whole = await (await _generate(engine)).finished()
        count = len(answer.generation.response_ids)
        assert whole.generation.finish_reason == "length"
        assert whole.generation.response_ids[:count] == answer.generation.response_ids
        # and can be attributed
        found = await engine.attribute_generation(answer.generation, QUICK)
        assert found.attributions[0].text == answer.generation.response

    run(main())


def test_a_deadline_before_the_first_token_is_an_error(engine: Engine, run: Run) -> None:
    async def main() -> None:
        caller = Caller()
        generating = await engine.generate(SHORT, "sentence", ENDLESS, caller)
        caller.leave(Departure.LATE)
        with pytest.raises(DeadlineError):
            await generating.finished()
        generating.close()
        assert engine.load.in_progress == 0

    run(main())


def test_the_usual_deadline_follows_the_speed_of_the_machine(engine: Engine) -> None:
    assert engine._speed.seconds(100, 0) > 0 and engine._speed.seconds(0, 100) > 0
    assert engine.limits.allowed_seconds() == engine.limits.allowed_seconds(1.0) == 120
    assert engine.limits.allowed_seconds(100.0) == 400


def test_the_deadline_of_an_attribution_follows_its_passes(
    engine: Engine, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        # by now it has learnt what passes take here; from now on they take a second a token
        assert 0 < engine._speed.pass_seconds(1) < 1
        monkeypatch.setattr(engine._speed, "_pass_token", 1.0)
        short, long = Caller(), Caller()
        await engine.attribute_response(SHORT, RESPONSE, QUICK, short)
        assert engine._speed.pass_seconds(1) < 1
        monkeypatch.setattr(engine._speed, "_pass_token", 1.0)
        await engine.attribute_response(CONTEXT, RESPONSE, LONG, long)
        # a pass for each word, over all of the words, and four times that in company
        assert 4 * WORDS**2 < long.seconds < 4 * 2 * WORDS**2
        assert 120 <= short.seconds < long.seconds / 50

    run(main())
