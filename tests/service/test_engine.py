"""The engine without HTTP: text as it is written, attribution prepared and kept, limits held."""

import asyncio
import gc
import itertools
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2.errors import InputError, PromptTooLongError, SpanError
from at2.tasks import Document
from service.engine import Engine, Question, Quote, Sampling
from service.engine.limits import Limits
from service.engine.requests import Spans
from service.failures import BusyError, DeadlineError
from service.records import Prompt
from service.settings import Settings
from tests.helpers.engines import answer_of
from tests.helpers.tiny import tiny_pair, tiny_settings

T = TypeVar("T")

CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello."
)
PROMPT = Prompt((Document(CONTEXT),), "Where does Charlotte Bennett live?", ())
ENDLESS = Sampling(temperature=5.0, seed=1, max_new_tokens=1000)
MAX_REQUESTS = 8


def _question(spans: Spans = None, method: str = "at2", **more: Any) -> Question:
    return Question(spans, method, **more)


@pytest.fixture(scope="module")
def engine(runner: asyncio.Runner) -> Iterator[Engine]:
    engine = Engine(
        Settings(
            **tiny_settings(),
            max_requests=MAX_REQUESTS,
            max_documents=4,
            max_spans=5,
            max_passes=40,
        )
    )
    runner.run(engine.start())
    yield engine
    engine.close()


@pytest.fixture()
def run(runner: asyncio.Runner) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    return lambda work: runner.run(asyncio.wait_for(work, 120))


async def _free(engine: Engine) -> None:
    """No place is taken any more; who is given up leaves a moment later."""
    while engine.load.in_progress or engine.load.generating:
        await asyncio.sleep(0.01)


async def _settled(engine: Engine) -> None:
    """Everything that was prepared is done, and passes that nobody waits for any longer, too."""
    while engine.load.attributions_waiting or engine.load.preparing:
        await asyncio.sleep(0.01)
    # passes come one after the other: this one is behind all that began before
    await engine.attribute_response(PROMPT, "Yes.", _question(method="average_attention"))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(max_new_tokens=3),
        Sampling(temperature=4.0, seed=3, max_new_tokens=60),
        Sampling(temperature=4.0, seed=4, max_new_tokens=60),
    ],
)
def test_the_pieces_joined_are_the_response(engine: Engine, run: Any, sampling: Sampling) -> None:
    async def main() -> None:
        generating = await engine.generate(PROMPT, "sentence", sampling)
        pieces = [piece async for piece in generating]
        generating.close()
        generation = generating.answer.generation
        assert "".join(pieces) == generation.response
        assert len(pieces) > 1 and all(pieces)
        again = await answer_of(engine, PROMPT, **vars(sampling))
        assert again.generation.response_ids == generation.response_ids
        assert again.sources == generating.answer.sources
        assert await engine.answer(generation) == generating.answer

    run(main())


def test_a_closed_generation_frees_its_place(engine: Engine, run: Any) -> None:
    async def main() -> None:
        generating = await engine.generate(PROMPT, "sentence", ENDLESS)
        async for _ in generating:
            break
        assert engine.load.in_progress == engine.load.generating == 1
        assert 0 < engine.load.cache_used < 1
        generating.close()
        generating.close()
        assert engine.load.in_progress == engine.load.generating == 0

    run(main())


def test_a_response_is_attributed_in_the_place_that_it_was_written_in(
    engine: Engine, run: Any
) -> None:
    async def main() -> None:
        with ExitStack() as others:
            for _ in range(MAX_REQUESTS - 1):
                others.enter_context(engine.admission.request())
            generating = await engine.generate(PROMPT, "sentence", Sampling())
            async for _ in generating:
                pass
            with pytest.raises(BusyError):
                await engine.generate(PROMPT, "sentence", Sampling())
            written = await engine.attribute_written(generating, _question("sentence"))
            generating.close()
            generation = generating.answer.generation
            again = await engine.attribute_generation(generation, _question("sentence"))
            assert written.attributions == again.attributions != []
        await _free(engine)

    run(main())


def test_beyond_the_most_requests_comes_busy_with_a_time(engine: Engine, run: Any) -> None:
    async def main() -> None:
        running = [await engine.generate(PROMPT, "sentence", ENDLESS) for _ in range(MAX_REQUESTS)]
        with pytest.raises(BusyError, match=str(MAX_REQUESTS)) as caught:
            await engine.generate(PROMPT, "sentence", Sampling())
        assert 1 <= caught.value.retry_after <= 60
        with pytest.raises(BusyError):
            await engine.attribute_response(PROMPT, "Yes.", _question())
        running[0].close()
        await answer_of(engine, PROMPT)
        for generating in running:
            generating.close()
        assert engine.load.in_progress == 0

    run(main())


def test_a_refused_request_takes_no_place(engine: Engine, run: Any) -> None:
    long = Prompt((Document("The cat sat. " * 3000),), "Why?", ())

    async def main() -> None:
        with pytest.raises(PromptTooLongError, match="2048"):
            await engine.generate(long, "sentence", Sampling())
        with pytest.raises(PromptTooLongError, match="2048"):
            await engine.attribute_response(long, "Yes.", _question())
        many = Prompt((Document("x"),) * 5, "Why?", ())
        for work in (
            engine.generate(many, "sentence", Sampling()),
            engine.attribute_response(many, "Yes.", _question()),
        ):
            with pytest.raises(InputError, match=r"5 documents.* 4"):
                await work
        assert engine.load.in_progress == 0

    run(main())


def test_what_takes_too_long_is_given_up(run: Any, engine: Engine) -> None:
    limits = engine.limits

    async def main() -> None:
        object.__setattr__(limits, "seconds", 1e-4)
        with (
            pytest.raises(DeadlineError, match=r"0\.0001"),  # before there is anything to close,
            closing(await engine.generate(PROMPT, "sentence", ENDLESS)) as generating,  # or later
        ):
            await generating.finished()
        await _free(engine)
        with pytest.raises(DeadlineError):
            await engine.attribute_response(PROMPT, "Yes.", _question(method="leave_one_out"))
        await _free(engine)

    seconds = limits.seconds
    try:
        run(main())
    finally:
        object.__setattr__(limits, "seconds", seconds)


def test_scores_are_prepared_when_a_generation_ends(engine: Engine, run: Any) -> None:
    passes: list[int] = []

    async def main() -> None:
        answer = await answer_of(engine, PROMPT)
        await _settled(engine)
        hook = engine.loaded.model.register_forward_pre_hook(lambda *_: passes.append(1))
        try:
            findings = await engine.attribute_generation(answer.generation, _question())
            await engine.attribute_generation(answer.generation, _question(source_type="word"))
            assert not passes  # one array of scores serves every level
            engine.forget(answer.generation.id)
            again = await engine.attribute_generation(answer.generation, _question())
            assert len(passes) == 1
            for found, other in zip(findings.attributions, again.attributions, strict=True):
                for one, two in zip(found.sources, other.sources, strict=True):
                    assert one.source == two.source
                    assert one.score == pytest.approx(two.score, rel=1e-4, abs=1e-6)
        finally:
            hook.remove()

    run(main())


def test_nothing_of_a_forgotten_generation_is_kept(engine: Engine, run: Any) -> None:
    async def main() -> None:
        await _settled(engine)
        before = engine.load.score_bytes
        answer = await answer_of(engine, PROMPT)
        engine.forget(answer.generation.id)  # while its scores are being prepared, or just after
        await _settled(engine)
        assert engine.load.score_bytes == before

    run(main())


def test_kept_scores_take_no_more_memory_than_is_said(engine: Engine, run: Any) -> None:
    context = " ".join(f"Ann Lee lives in house {number}." for number in range(60))
    prompt = Prompt((Document(context),), "Where does Ann Lee live?", ())
    methods = ("at2", "contrastive_attention")

    async def main() -> None:
        answer = await answer_of(engine, prompt, temperature=5.0, seed=1, max_new_tokens=100)
        assert len(answer.generation.response_ids) == 100
        tracemalloc.start()
        try:
            said, taken = engine.load.score_bytes, tracemalloc.get_traced_memory()[0]
            for method, source_type in itertools.product(methods, ("document", "sentence", "word")):
                question = _question(method=method, source_type=source_type)
                await engine.attribute_generation(answer.generation, question)
            gc.collect()
            said, taken = engine.load.score_bytes - said, tracemalloc.get_traced_memory()[0] - taken
        finally:
            tracemalloc.stop()
        assert 0 < taken < 1.2 * said
        engine.forget(answer.generation.id)

    run(main())


def test_scores_that_were_pushed_out_come_back_the_same(run: Any) -> None:
    engine = Engine(Settings(**tiny_settings(), score_cache_mb=0, prepare=False))

    async def main() -> None:
        await engine.start()
        answer = await answer_of(engine, PROMPT)
        first = await engine.attribute_generation(answer.generation, _question())
        assert engine.load.score_bytes == 0
        second = await engine.attribute_generation(answer.generation, _question())
        assert first.attributions == second.attributions

    run(main())
    engine.close()


def test_many_spans_and_dear_methods_are_refused_before_any_pass(engine: Engine, run: Any) -> None:
    passes: list[int] = []
    response = "Charlotte Bennett lives in Lisbon."

    async def refused(question: Question, words: str) -> None:
        with pytest.raises(InputError, match=words):
            await engine.attribute_response(PROMPT, response, question)

    async def main() -> None:
        await _settled(engine)  # what other tests left to prepare takes passes
        hook = engine.loaded.model.register_forward_pre_hook(lambda *_: passes.append(1))
        try:
            await refused(_question([(0, 1)] * 6), r"6 spans.* 5")
            await refused(_question(method="context_cite"), r"64 passes.* 40")
            await refused(
                _question([(0, n) for n in range(5, 10)], verify=True, source_type="word"),
                r"at2 with verify takes 58",
            )
            await refused(_question([(0, 9), (0, 99)]), "99")
            assert not passes
        finally:
            hook.remove()

    run(main())


def test_a_page_costs_the_same_whether_or_not_its_scores_are_kept(engine: Engine, run: Any) -> None:
    two = Prompt((Document(CONTEXT),), "Tell me about Charlotte Bennett.", ())

    async def main() -> None:
        answer = await answer_of(engine, two)
        count = len(answer.statements)
        assert count > 1
        one = _question([(0, 9)], method="gradient_norm")
        await engine.attribute_generation(answer.generation, one)
        passes = engine.limits.passes
        dear = 2 * count  # what a page takes
        object.__setattr__(engine.limits, "passes", dear - 1)
        try:
            for question in (_question("sentence", "gradient_norm"), one):
                page = engine.page_of_generation(
                    answer.generation, replace(question, spans="sentence")
                )
                with pytest.raises(InputError, match=f"{dear} passes"):
                    await page
        finally:
            object.__setattr__(engine.limits, "passes", passes)

    run(main())


def test_who_verifies_keeps_nobody_else_waiting(
    engine: Engine, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, release = threading.Event(), threading.Event()

    def slow(_: Any, spans: list[Any], **__: Any) -> list[Any]:
        begun.set()
        release.wait()
        return [None for _ in spans]

    async def main() -> None:
        answer = await answer_of(engine, PROMPT)
        await _settled(engine)
        monkeypatch.setattr("service.engine.attributing.verify_spans", slow)
        verifying = asyncio.ensure_future(
            engine.attribute_generation(answer.generation, _question(verify=True))
        )
        await asyncio.to_thread(begun.wait)
        try:
            found = await asyncio.gather(
                *(engine.attribute_generation(answer.generation, _question()) for _ in range(5))
            )
            assert all(f.attributions == found[0].attributions for f in found)
            await answer_of(engine, PROMPT)
        finally:
            release.set()
        await verifying

    run(main())


def test_a_prompt_that_takes_long_to_encode_is_late_too(
    engine: Engine, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    monkeypatch.setattr(Limits, "check_texts", lambda *_: release.wait())
    monkeypatch.setattr(engine, "limits", replace(engine.limits, seconds=0.1))

    async def main() -> None:
        try:
            with pytest.raises(DeadlineError, match=r"0\.1"):
                await engine.generate(PROMPT, "sentence", Sampling())
        finally:
            release.set()
        await _free(engine)

    run(main())


@cache
def _tokenizer() -> Any:
    return tiny_pair()[1]


@given(st.lists(st.text(max_size=30), max_size=40), st.integers(1, 2000))
@settings(max_examples=15)
def test_no_text_that_fits_is_refused_for_its_length(words: list[str], times: int) -> None:
    tokenizer = _tokenizer()
    text = " ".join(words) * times
    count = len(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False))
    limits = Limits(count, 1, 1, 1, 1, 1.0)
    limits.check_texts(tokenizer, [text])  # raises nothing
    if len(text) > 400_000 and count > 10_000:
        with pytest.raises(PromptTooLongError):
            replace(limits, context_tokens=count // 4).check_texts(tokenizer, [text])


def test_a_quote_is_the_span_that_says_it(engine: Engine, run: Any) -> None:
    response = "Charlotte Bennett lives in Lisbon. Charlotte Bennett works."

    async def ask(spans: Any) -> Any:
        findings = await engine.attribute_response(PROMPT, response, _question(spans))
        return findings.attributions

    async def main() -> None:
        assert await ask(Quote("Lisbon")) == await ask([(27, 33)])
        assert await ask(Quote("Charlotte", 1)) == await ask([(35, 44)])
        with pytest.raises(SpanError, match="2 times") as caught:
            await ask(Quote("Charlotte"))
        assert caught.value.param == "occurrence"
        with pytest.raises(SpanError, match="Paris") as caught:
            await ask(Quote("Paris"))
        assert caught.value.param == "quote"

    run(main())


def test_an_abandoned_attribution_stops_between_passes(engine: Engine, run: Any) -> None:
    begun, given_up = threading.Event(), threading.Event()
    passes: list[int] = []

    async def main() -> None:
        await _settled(engine)

        def count(*_: object) -> None:
            passes.append(1)
            begun.set()
            given_up.wait()

        hook = engine.loaded.model.register_forward_pre_hook(count)
        try:
            question = _question("sentence", method="gradient_norm", source_type="word")
            response = " ".join(f"Charlotte Bennett lives in Lisbon {i}." for i in range(15))
            asking = asyncio.ensure_future(engine.attribute_response(PROMPT, response, question))
            await asyncio.to_thread(begun.wait)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            given_up.set()
            await _settled(engine)
            assert len(passes) < 15
        finally:
            given_up.set()
            hook.remove()

    run(main())
