"""For whole engines and servers: a tiny random model that never ends a response, and models that
wait."""

import threading
from pathlib import Path
from typing import Any

from service.engine import Answer, Engine, Sampling
from service.records import Prompt
from tests.helpers.models import tiny_model
from tests.helpers.tokenizers import tiny_tokenizer


def save_endless_model(folder: Path, context_tokens: int) -> None:
    """Write a model with its tokenizer into a folder, as `AT2_MODEL` takes it."""
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model(
        "llama",
        vocab_size=len(tokenizer),
        eos_token_id=None,
        max_position_embeddings=context_tokens,
    )
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def hold_passes(model: Any) -> threading.Event:
    """From now on, passes of a model wait until this is set: what is to be in one step is there."""
    go_on = threading.Event()

    def before(*_: object) -> None:
        go_on.wait()

    model.register_forward_pre_hook(before)
    return go_on


async def answer_of(engine: Engine, prompt: Prompt, **sampling: Any) -> Answer:
    """What an engine answers, with its scores kept or being prepared."""
    generating = await engine.generate(prompt, "sentence", Sampling(**sampling))
    try:
        answer = await generating.finished()
    finally:
        generating.close()
    engine.prepare(answer)
    return answer
