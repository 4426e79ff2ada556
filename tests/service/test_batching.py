"""The batcher generates what the model alone would, whatever else it is doing, and survives."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest
import torch

from at2.model.twin import same_weights
from at2.tasks import SimpleContextAttributionTask
from service.engine.batching import Batcher
from service.engine.sampling import Sampling
from service.engine.token_stream import TokenStream
from service.failures import EngineDownError, NoMemoryError
from tests.helpers.engines import hold_passes
from tests.helpers.models import random_ids, tiny_model
from tests.helpers.tiny import tiny_pair

T = TypeVar("T")

GREEDY = Sampling()
WARM = Sampling(temperature=5.0, top_p=0.99)  # far from certain
NEW_TOKENS = 12
CACHE = 1024

_PEOPLE = ["Charlotte Bennett", "Omar Whitfield", "Olga Petrov", "Ann Lee"]


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_pair()[0]


@pytest.fixture(scope="module")
def prompts(model: Any) -> list[list[int]]:
    tokenizer = tiny_pair()[1]
    prompts = []
    for number in range(32):
        person = _PEOPLE[number % 4]
        context = " ".join(
            f"{_PEOPLE[(number + i) % 4]} lives in Lisbon. {_PEOPLE[i % 4]} plays the cello."
            for i in range(1 + number % 3)
        )
        task = SimpleContextAttributionTask(
            context, f"Where does {person} live?", model, tokenizer, source_type="sentence"
        )
        prompts.append(task.input_ids)
    return prompts


@pytest.fixture()
def batcher(model: Any) -> Iterator[Batcher]:
    end_id = model.generation_config.eos_token_id
    batcher = Batcher(same_weights(model), [end_id], CACHE)
    batcher.start()
    yield batcher
    batcher.close()


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 120))


async def _ids(stream: TokenStream) -> list[int]:
    return [token_id async for new in stream for token_id in new]


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.02)


def _alone(model: Any, prompt: Sequence[int]) -> list[int]:
    with torch.no_grad():
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )
    ids: list[int] = output[0, len(prompt) :].tolist()
    return ids


def test_the_second_module_shares_every_tensor_and_no_setting(model: Any) -> None:
    twin = same_weights(model)
    ours = dict(itertools.chain(model.named_parameters(), model.named_buffers()))
    theirs = dict(itertools.chain(twin.named_parameters(), twin.named_buffers()))
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert {id(m.config) for m in model.modules() if hasattr(m, "config")}.isdisjoint(
        id(m.config) for m in twin.modules() if hasattr(m, "config")
    )


def test_32_at_once_get_what_each_gets_alone(
    model: Any, batcher: Batcher, prompts: list[list[int]]
) -> None:
    async def main() -> list[list[int]]:
        streams = [
            batcher.submit(prompt, NEW_TOKENS, GREEDY, 0, streaming=bool(number % 2))
            for number, prompt in enumerate(prompts)
        ]
        assert batcher.load.running == 32
        return await asyncio.gather(*map(_ids, streams))

    assert _run(main()) == [_alone(model, prompt) for prompt in prompts]
    assert batcher.load.running == batcher.load.tokens == 0


def test_a_seeded_draw_does_not_depend_on_its_company(
    batcher: Batcher, prompts: list[list[int]]
) -> None:
    async def draw(seed: int, others: int) -> list[int]:
        company = [
            batcher.submit(prompt, NEW_TOKENS, sampling, 99, streaming=False)
            for prompt, sampling in zip(prompts[:others], itertools.cycle([WARM, GREEDY]))
        ]
        stream = batcher.submit(prompts[5], NEW_TOKENS, WARM, seed, streaming=True)
        drawn, *_ = await asyncio.gather(_ids(stream), *map(_ids, company))
        return drawn

    async def main() -> None:
        alone = await draw(1, others=0)
        assert await draw(1, others=7) == alone
        assert await draw(2, others=0) != alone

    _run(main())


def test_a_request_that_fills_the_cache_runs_and_a_larger_one_is_refused(
    batcher: Batcher, prompts: list[list[int]]
) -> None:
    prompt = (prompts[0] * CACHE)[: batcher.capacity - 8]

    async def main() -> None:
        assert len(await _ids(batcher.submit(prompt, 8, GREEDY, 0, streaming=False))) in range(1, 9)
        with pytest.raises(ValueError, match=str(batcher.capacity)):
            batcher.submit(prompt, 9, GREEDY, 0, streaming=False)
        # several that together exceed it wait for one another
        streams = [
            batcher.submit(prompt[: CACHE // 2], 4, GREEDY, 0, streaming=False) for _ in range(5)
        ]
        first, *others = await asyncio.gather(*map(_ids, streams))
        assert others == [first] * 4

    _run(main())


def test_a_request_fills_the_cache_of_a_model_with_uneven_kinds_of_layers() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"] * 2
    model = tiny_model("gemma3_text", num_hidden_layers=7, layer_types=kinds, sliding_window=512)
    batcher = Batcher(model, [], 352)  # less than the window
    batcher.start()

    async def main() -> None:
        prompt = random_ids(batcher.capacity - 4).tolist()
        assert len(await _ids(batcher.submit(prompt, 4, GREEDY, 0, streaming=False))) == 4

    try:
        _run(main())
    finally:
        batcher.close()


def test_a_closed_stream_gives_up_its_place(batcher: Batcher, prompts: list[list[int]]) -> None:
    # as good as endless: at this temperature the end has one chance in two thousand
    endless = Sampling(temperature=5.0)

    async def main() -> None:
        stream = batcher.submit(prompts[0], CACHE - 200, endless, 1, streaming=True)
        async for _ in stream:
            break
        assert batcher.load.running == 1
        stream.close()
        stream.close()
        assert batcher.load.running == 0
        # there is room for as much again, at once
        again = batcher.submit(prompts[1], CACHE - 200, GREEDY, 0, streaming=False)
        assert len(await _ids(again)) > 0

    _run(main())


def test_what_was_put_out_of_a_full_cache_goes_on_when_the_others_are_given_up() -> None:
    batcher = Batcher(tiny_model("llama"), [], 128)
    batcher.start()
    prompt, new_tokens = random_ids(8).tolist(), 120

    async def main() -> None:
        streams = [batcher.submit(prompt, new_tokens, GREEDY, 0, streaming=True) for _ in range(2)]
        written: list[list[int]] = [[], []]
        too_many = asyncio.Event()  # for the cache to hold both: one was put out

        async def read(number: int) -> None:
            async for new in streams[number]:
                written[number] += new
                if len(written[number]) > batcher.capacity // 2:
                    too_many.set()

        reading = [asyncio.create_task(read(number)) for number in range(2)]
        await too_many.wait()
        ahead, behind = sorted(range(2), key=lambda number: -len(written[number]))
        reading[ahead].cancel()
        streams[ahead].close()
        await reading[behind]
        assert len(written[behind]) == new_tokens
        assert written[behind][: len(written[ahead])] == written[ahead]

    try:
        _run(main())
    finally:
        batcher.close()


def test_an_error_of_the_model_ends_the_engine_for_good(
    batcher: Batcher, prompts: list[list[int]]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the weights have melted")

    async def main() -> None:
        hook = batcher._model.register_forward_pre_hook(fail)
        streams = [
            batcher.submit(prompt, NEW_TOKENS, GREEDY, 0, streaming=False) for prompt in prompts[:3]
        ]
        results = await asyncio.gather(*map(_ids, streams), return_exceptions=True)
        assert [type(result) for result in results] == [EngineDownError] * 3
        hook.remove()
        await _until(lambda: batcher.dead)
        assert not batcher.alive
        with pytest.raises(EngineDownError):
            batcher.submit(prompts[0], NEW_TOKENS, GREEDY, 0, streaming=False)

    _run(main())


def test_out_of_memory_fails_what_runs_and_the_engine_goes_on(
    model: Any, batcher: Batcher, prompts: list[list[int]]
) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB")

    async def main() -> None:
        hook = batcher._model.register_forward_pre_hook(fail)
        stream = batcher.submit(prompts[0], NEW_TOKENS, GREEDY, 0, streaming=False)
        with pytest.raises(NoMemoryError):
            await _ids(stream)
        hook.remove()
        await _until(lambda: batcher.alive)
        stream = batcher.submit(prompts[1], NEW_TOKENS, GREEDY, 0, streaming=False)
        assert await _ids(stream) == _alone(model, prompts[1])

    _run(main())


def test_what_waits_when_it_is_closed_is_told(model: Any, prompts: list[list[int]]) -> None:
    batcher = Batcher(same_weights(model), [], CACHE)
    steps = itertools.count()

    def before(*_: object) -> None:
        while next(steps) >= 5 and not batcher.dead:  # it stands still until it is closed
            time.sleep(0.01)

    batcher.model.register_forward_pre_hook(before)
    batcher.start()

    async def main() -> None:
        stream = batcher.submit(prompts[0], CACHE // 2, GREEDY, 0, streaming=True)
        async for _ in stream:
            break
        await asyncio.to_thread(batcher.close)
        with pytest.raises(EngineDownError):
            await _ids(stream)

    _run(main())
    batcher.close()
    assert not batcher.alive


# -- prompts that begin alike ---------------------------------------------------------------------


def _steps(batcher: Batcher) -> list[int]:
    """How many tokens each step takes from now on."""
    sizes: list[int] = []
    batcher.model.register_forward_pre_hook(
        lambda _, __, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    return sizes


@pytest.fixture()
def tiny_batcher() -> Iterator[Batcher]:
    batcher = Batcher(tiny_model("llama"), [], CACHE)
    batcher.start()
    yield batcher
    batcher.close()


def test_a_prompt_is_read_once_for_one_owner_and_again_for_another(tiny_batcher: Batcher) -> None:
    prompt, new = random_ids(200).tolist(), 3
    sizes = _steps(tiny_batcher)

    async def read(caller: str, ids: list[int] = prompt) -> tuple[list[int], int]:
        before = sum(sizes)
        stream = tiny_batcher.submit(
            ids, new, GREEDY, 0, streaming=False, caller=caller, share=bool(caller)
        )
        return await _ids(stream), sum(sizes) - before - (new - 1)

    async def main() -> None:
        first, tokens = await read("ada")
        assert tokens == len(prompt)
        again, tokens = await read("ada")
        assert again == first and tokens < 40  # less than two blocks
        other, tokens = await read("bob")
        assert other == first and tokens == len(prompt)
        other, tokens = await read("bob")
        assert other == first and tokens < 40
        nobody, tokens = await read("")
        assert nobody == first and tokens == len(prompt)
        # the beginning alone is shared with what goes on differently
        _, tokens = await read("ada", prompt[:100] + random_ids(100, 1).tolist())
        assert 100 <= tokens < 140
        # what begins differently shares nothing, though it goes on the same
        _, tokens = await read("ada", [prompt[0] + 1, *prompt[1:]])
        assert tokens == len(prompt)

    _run(main())


def test_equal_prompts_at_once_share_as_well(tiny_batcher: Batcher) -> None:
    prompt, new = random_ids(300).tolist(), 3
    sizes = _steps(tiny_batcher)
    all_there = hold_passes(tiny_batcher.model)

    async def main() -> None:
        try:
            streams = [
                tiny_batcher.submit(
                    prompt, new, GREEDY, 0, streaming=False, caller="ada", share=True
                )
                for _ in range(8)
            ]
        finally:
            all_there.set()
        responses = await asyncio.gather(*map(_ids, streams))
        assert responses == [responses[0]] * 8
        assert sum(sizes) < 3 * len(prompt)

    _run(main())


def test_kept_prefixes_make_way_for_whoever_needs_the_room(tiny_batcher: Batcher) -> None:
    async def main() -> None:
        for seed in range(6):  # more than the cache holds, one after the other
            prompt = random_ids(CACHE - 100, seed).tolist()
            stream = tiny_batcher.submit(
                prompt, 3, GREEDY, 0, streaming=False, caller="ada", share=True
            )
            assert len(await _ids(stream)) == 3
        streams = [
            tiny_batcher.submit(
                random_ids(400, seed).tolist(),
                3,
                GREEDY,
                0,
                streaming=False,
                caller="ada",
                share=True,
            )
            for seed in range(10, 16)
        ]
        assert [len(ids) for ids in await asyncio.gather(*map(_ids, streams))] == [3] * 6

    _run(main())


def _order_of_first_tokens(asked: Sequence[tuple[str, int]]) -> list[int]:
    """Prompts of so many tokens by these callers, each there when the first piece of the first one
    is read: the order in which they get a token."""
    batcher = Batcher(tiny_model("llama"), [], 8 * CACHE)
    reading, go_on = threading.Event(), hold_passes(batcher.model)
    batcher.model.register_forward_pre_hook(lambda *_: reading.set(), prepend=True)
    batcher.start()
    order: list[int] = []

    async def first_token(number: int, stream: TokenStream) -> None:
        await _ids(stream)
        order.append(number)

    def submit(number: int) -> Coroutine[Any, Any, None]:
        caller, length = asked[number]
        prompt = random_ids(length, number).tolist()
        stream = batcher.submit(prompt, 1, GREEDY, 0, streaming=False, caller=caller)
        return first_token(number, stream)

    async def main() -> None:
        try:
            first = submit(0)
            await asyncio.to_thread(reading.wait)
            others = [submit(number) for number in range(1, len(asked))]
        finally:
            go_on.set()
        await asyncio.gather(first, *others)

    try:
        _run(main())
    finally:
        batcher.close()
    return order


def test_a_long_prompt_does_not_hold_up_the_short_ones_of_others() -> None:
    assert _order_of_first_tokens([("long", 2000), ("a", 60), ("long", 50), ("b", 80)])[-1] == 0


def test_the_short_prompts_of_one_caller_do_not_hold_up_the_long_one_of_another() -> None:
    order = _order_of_first_tokens([("long", 1000), *[("many", 100)] * 40])
    assert 5 <= order.index(0) <= 20  # by then as many tokens of the others have been read


def test_a_long_prompt_is_read_in_small_pieces_while_others_write() -> None:
    batcher = Batcher(tiny_model("llama"), [], 8 * CACHE)
    sizes, go_on = _steps(batcher), hold_passes(batcher.model)
    batcher.start()

    async def main() -> None:
        def submit(caller: str, length: int, new: int) -> TokenStream:
            prompt = random_ids(length).tolist()
            return batcher.submit(prompt, new, GREEDY, 0, streaming=True, caller=caller)

        try:
            streams = [submit("short", 20, 40), submit("long", 2000, 1)]
            streams.append(submit("short", 20, 40))
        finally:
            go_on.set()
        await asyncio.gather(*map(_ids, streams))

    try:
        _run(main())
    finally:
        batcher.close()
    assert max(sizes) > 200  # as long as it is level with the others
    assert sum(60 <= size <= 66 for size in sizes) >= 15
