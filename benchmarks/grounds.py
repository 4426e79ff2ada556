"""What a span of a response rests on, told by hiding and not by any method of attribution.

A right value may stand in a response because the model read the sentence that holds it, because
another sentence says it too, or because the model knew it. Only in the first case is that sentence
its source. So the sentence is hidden, with the response as it is:

    drop = log p(span | all sources) - log p(span | all but the supporting ones)

The span rests on them if `drop` is at least ln 2: without them it is half as likely at most, so
that more of its probability is owed to them than not. If it does not, but is half as likely at most
without any source, it rests on others; else it comes from memory.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from at2.evaluation.verify import all_and_none
from at2.model.ablation import ablated_logit_probs, sequence_log_probs
from at2.ranges import CharRange
from at2.tasks import AttributionTask

HALF_AS_LIKELY = math.log(2)
"""Nats."""

Ground = Literal["sentence", "elsewhere", "memory"]


@dataclass(frozen=True)
class Drops:
    """What a span's log-probability loses, in nats.

    Attributes:
        without_support: with the supporting sources hidden.
        without_all: with all sources hidden.
    """

    without_support: float
    without_all: float

    @property
    def ground(self) -> Ground:
        """What the span rests on: its supporting sentences, something else in the context, or what
        the model knows."""
        if self.without_support >= HALF_AS_LIKELY:
            return "sentence"
        return "elsewhere" if self.without_all >= HALF_AS_LIKELY else "memory"


def measure_drops(task: AttributionTask, span: CharRange, support: Collection[int]) -> Drops:
    """Hide the supporting sources, and all of them: three passes over the model at most.

    Args:
        span: characters of the target.
        support: places among the task's sources.

    Raises:
        SpanError: the span is outside the target or covers no token.
    """
    without = np.ones((1, task.num_sources), dtype=np.bool_)
    without[0, list(support)] = False
    masks = np.concatenate([all_and_none(task.num_sources), without])
    tokens = task.target_range_to_token_range(*span, relative=True)
    logit_probs = ablated_logit_probs(task.model, task.marked_tokens.part(*tokens), masks)
    full, none, rest = sequence_log_probs(logit_probs).tolist()
    return Drops(full - rest, full - none)
