"""What writes responses: the model here, many at a time or one after the other, or another server.

Knows how they are made and tried out; nothing of requests.
"""

import time

from at2.errors import ModelError
from at2.model.positions import context_length
from at2.model.twin import same_weights
from service.engine.batching import Batcher
from service.engine.loading import Loaded
from service.engine.memory import check_cache
from service.engine.one_by_one import OneByOne
from service.engine.remote import Remote
from service.engine.remote_api import RemoteApi
from service.engine.sampling import Sampling
from service.engine.scoring import Scoring, check_scores_as_written
from service.engine.speed import Speed
from service.engine.text import TextThreads
from service.settings import Settings

_CACHE_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Default size of the key-value cache: a few long requests, or many short ones."""

_WARM_UP_TOKENS = 4
_MEASURED_PROMPT = 64
_MEASURED_TOKENS = 8

Writer = Batcher | OneByOne | Remote


def writer_of(loaded: Loaded, settings: Settings) -> Batcher | Remote:
    """What writes responses by these settings, still to be started.

    Raises:
        ModelError: the cache does not fit the memory, or the model cannot be batched.
    """
    device = loaded.model.device.type
    cache_tokens = settings.cache_tokens or _CACHE_TOKENS.get(device, _CACHE_TOKENS["cuda"])
    if settings.generator is not None:
        key = settings.generator_key
        api = RemoteApi(
            settings.generator,
            None if key is None else key.get_secret_value(),
            settings.generator_model or settings.model,
            loaded.tokenizer,
        )
        return Remote(api, context_length(loaded.model) or cache_tokens)
    check_cache(loaded.model, cache_tokens)
    try:
        return Batcher(same_weights(loaded.model), sorted(loaded.end_ids), cache_tokens)
    except (ValueError, AttributeError, NotImplementedError) as error:
        raise ModelError(f"{loaded.identity.model} cannot generate in batches: {error}") from error


async def warm_up(
    loaded: Loaded, writer: Batcher | OneByOne, speed: Speed, text: TextThreads
) -> Scoring:
    """Write a few tokens, so that the first request finds all warm.

    Args:
        loaded: the model.
        writer: started.
        speed: learns what a generation takes.
        text: for what takes time and no pass.

    Returns:
        How responses of this writer get their scores.

    Raises:
        ServerFailure: nothing can be generated.
    """
    if isinstance(writer, Batcher):
        scoring = await check_scores_as_written(loaded, writer, text.run)
    else:
        await _write(writer, _WARM_UP_TOKENS, _WARM_UP_TOKENS)
        scoring = Scoring(False, "scores take a pass: responses are written one by one")
    prompt_tokens = min(_MEASURED_PROMPT, writer.capacity - _MEASURED_TOKENS)
    moments = await _write(writer, prompt_tokens, _MEASURED_TOKENS)
    began, first, last = moments[0], moments[1], moments[-1]
    speed.measure(prompt_tokens, first - began, len(moments) - 1, last - first)
    return scoring


async def _write(writer: Batcher | OneByOne, prompt_tokens: int, new_tokens: int) -> list[float]:
    """Write so many tokens; the moment of the beginning, and that of each token."""
    moments = [time.perf_counter()]
    prompt = [0] * prompt_tokens
    async for ids in writer.submit(prompt, new_tokens, Sampling(), 0, streaming=True):
        moments += [time.perf_counter()] * len(ids)
    return moments
