"""How responses are scored here, found out by trying.

Scores that are taken while a response is written are used only where they equal those of a pass
over the finished sequence. Whatever a model does to its attention that is not seen on the way, this
finds it before the first request.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import torch

from at2.model.attention import attention_shape, probe_ids, weighed_scores
from at2.model.paged import ScoreRecorder
from at2.model.tokens import MarkedTokens
from service.engine.batching import Batcher
from service.engine.loading import Loaded
from service.engine.sampling import Sampling

_PROMPT_TOKENS = 40
_LONGEST_PROMPT = 160
"""The prompt of the test is longer than a sliding window that is at most about this long."""

_NEW_TOKENS = 6

_TOLERANCE = 1e-4
"""Allowed difference, as a share of the largest score."""

_HALF_TOLERANCE = 0.1
"""The same in half precision, where the two ways round hidden states differently."""


@dataclass(frozen=True)
class Scoring:
    """How responses that are written here get their scores.

    Attributes:
        as_written: taken while the response is written, or else by a pass over it afterwards.
        reason: why.
    """

    as_written: bool
    reason: str


async def check_scores_as_written(
    loaded: Loaded, batcher: Batcher, run: Callable[[Callable[[], Scoring]], Awaitable[Scoring]]
) -> Scoring:
    """Write a few tokens and compare their scores with those of a pass.

    Args:
        loaded: the model and how its attention is weighed.
        batcher: started, with the same model.
        run: runs what takes time in another thread.

    Raises:
        ServerFailure: nothing can be generated.
    """
    window = attention_shape(loaded.model).window or 0
    length = _PROMPT_TOKENS
    if window < _LONGEST_PROMPT - _PROMPT_TOKENS:
        length = max(length, window + _PROMPT_TOKENS // 2)
    length = min(length, batcher.capacity - _NEW_TOKENS)
    prompt: list[int] = probe_ids(loaded.model, length).tolist()
    query = (length // 2, length - 1)
    columns = (0, length)
    recorder = ScoreRecorder(loaded.weighings, columns, query)
    stream = batcher.submit(prompt, _NEW_TOKENS, Sampling(), 0, streaming=False, recorder=recorder)
    written = [token_id async for ids in stream for token_id in ids]
    target = (length, length + len(written))
    taken = recorder.scores(target)
    if taken is None:
        implementation = getattr(batcher.model.config, "_attn_implementation", "?")
        return Scoring(
            False,
            f"scores take a pass: attention under {implementation!r} is not seen while writing",
        )

    def compare() -> Scoring:
        tokens = MarkedTokens(prompt + written, target, query_range=query)
        passed = weighed_scores(loaded.model, tokens, loaded.weighings, columns=columns)
        worst = 0.0
        for name in loaded.weighings.by_name:
            expected = passed.of(name, target)
            largest = float(np.abs(expected).max()) or 1.0
            worst = max(worst, float(np.abs(taken.of(name, target) - expected).max()) / largest)
        half = loaded.model.dtype in (torch.float16, torch.bfloat16)
        if not worst <= (_HALF_TOLERANCE if half else _TOLERANCE):
            return Scoring(
                False,
                f"scores take a pass: those taken while writing differ from it by {worst:.2g}",
            )
        return Scoring(True, f"scores are taken while writing: they equal a pass to {worst:.1g}")

    return await run(compare)
