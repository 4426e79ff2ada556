"""Whether continuous batching gives what the model alone gives; found by trying, at start.

The batcher picks an attention of its own, which need not know everything that a model's does, and
runs sequences of different lengths in one pass.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from at2.model.attention import attention_shape, probe_ids
from at2.model.capture import AttentionCall, capture_pass, input_device
from at2.model.positions import frequencies
from at2.model.twin import same_weights, twin_for_pass
from service.engine.batching import Batcher
from service.engine.one_by_one import OneByOne
from service.engine.sampling import Sampling
from service.failures import EngineDownError

logger = logging.getLogger("at2.service")

_PROMPT_TOKENS = 24
_LONGEST_PROMPT = 160
_NEW_TOKENS = 8
# Difference of two logit vectors as a share of the spread of one: rounding, against a cap, a window
# or a sink that is left out.
_TOLERANCE = {torch.bfloat16: 0.15, torch.float16: 0.05}
_FLOAT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class GenerationWay:
    """How responses are generated.

    Attributes:
        batched: many at a time, or one after the other.
        reason: why not batched; None if it is.
    """

    batched: bool
    reason: str | None = None


async def choose_way(
    model: Any, batcher: Batcher, end_ids: Sequence[int], longest: int
) -> tuple[Batcher | OneByOne, GenerationWay]:
    """The batcher if it gives what the model gives, else what stands in for it.

    Args:
        model: the model that is served.
        batcher: one that runs; it is closed if it is not taken.
        end_ids: the ids that end a response.
        longest: tokens of the longest sequence that will be asked for.
    """
    reason = await _fault(model, batcher, longest)
    if reason is None:
        return batcher, GenerationWay(batched=True)
    logger.warning("responses are generated one at a time: %s", reason)
    capacity = batcher.capacity
    batcher.close()
    one_by_one = OneByOne(same_weights(model), end_ids, capacity)
    one_by_one.start()
    return one_by_one, GenerationWay(batched=False, reason=reason)


async def _fault(model: Any, batcher: Batcher, longest: int) -> str | None:
    """Why batches do not give what the model alone gives; None if they do."""
    if frequencies(model, longest) != frequencies(model, 1):
        return "the model's rotary frequencies follow the longest sequence of a batch"
    if "eager" in batcher.attention and _caps_attention(model):
        return f"attention {batcher.attention!r} leaves out the cap of the model's attention logits"

    window = attention_shape(model).window or 0
    prompt = probe_ids(model, max(_PROMPT_TOKENS, min(window * 5 // 4, _LONGEST_PROMPT))).tolist()
    prompt = prompt[: max(1, longest - _NEW_TOKENS)]
    batched: list[Tensor] = []
    written: list[int] = []
    with batcher.watched(batched.append):
        stream = batcher.submit(prompt, _NEW_TOKENS, Sampling(), 0, streaming=True)
        try:
            async for new in stream:
                written += new
        except EngineDownError:
            return "the model fails in batches"
    expected = _logits(model, [*prompt, *written])[len(prompt) - 1 : -1]
    tolerance = _TOLERANCE.get(model.dtype, _FLOAT_TOLERANCE)
    for actual, reference in zip(torch.stack(batched)[: len(written)], expected, strict=True):
        error = (actual - reference).norm() / (reference - reference.mean()).norm()
        if not error <= tolerance:
            return f"batched logits differ from the model's by {error:.2g} of their spread"
    return None


def _caps_attention(model: Any) -> bool:
    capped = False

    def on_layer(_: int, call: AttentionCall) -> None:
        nonlocal capped
        capped = capped or call.softcap is not None

    capture_pass(model, probe_ids(model, 2), on_layer)
    return capped


def _logits(model: Any, ids: list[int]) -> Tensor:
    """[tokens, vocabulary], by the model's own attention."""
    tensor = torch.tensor([ids], device=input_device(model))
    with twin_for_pass(model) as twin, torch.no_grad():
        logits: Tensor = twin(input_ids=tensor, use_cache=False).logits[0]
    return logits.float().cpu()
