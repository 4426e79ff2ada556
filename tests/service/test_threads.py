"""Small steps of generation take one thread, large ones all, and attribution takes all."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch

from at2.model.twin import same_weights
from at2.tasks import Document
from service.engine import Engine, Question, Sampling
from service.engine.threads import adapt_threads
from service.records import Prompt
from service.settings import Settings
from tests.helpers.models import random_ids
from tests.helpers.tiny import tiny_pair, tiny_settings

THREADS = 3


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def test_a_step_takes_threads_by_its_size() -> None:
    model = same_weights(tiny_pair()[0])
    adapt_threads(model)
    small = 100_000_000 // sum(parameter.numel() for parameter in model.parameters())
    large = small + 1
    taken: list[int] = []
    model.register_forward_hook(lambda *_: taken.append(torch.get_num_threads()))

    def steps() -> None:
        with torch.no_grad():
            for tokens in (large, 1, small, large):
                model(input_ids=random_ids(tokens)[None])

    thread = threading.Thread(target=steps)
    thread.start()
    thread.join()
    assert taken == [THREADS, 1, 1, THREADS]
    assert torch.get_num_threads() == THREADS  # here nothing has changed


def test_attribution_takes_all_threads_while_steps_take_one() -> None:
    taken: list[int] = []

    async def main() -> None:
        engine = Engine(Settings(**tiny_settings(), prepare=False))
        engine.loaded.model.register_forward_hook(lambda *_: taken.append(torch.get_num_threads()))
        await engine.start()
        try:
            prompt = Prompt((Document("Omar Whitfield lives in Lisbon."),), "Who lives here?", ())
            generating = await engine.generate(prompt, "sentence", Sampling(max_new_tokens=4))
            answer = await generating.finished()
            generating.close()
            # whichever thread begins now would begin with the one thread of the last step
            await engine.attribute_generation(answer.generation, Question(None, "leave_one_out"))
        finally:
            engine.close()

    asyncio.run(main())
    assert len(taken) > 1
    assert set(taken) == {THREADS}
