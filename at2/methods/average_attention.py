"""Average attention: the baseline that weighs every head of every layer alike.

score(t, s) = Σ over tokens k of s of mean over layers and heads of A[t - 1, k]
"""

from typing import Any

import torch

from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model.attention import attention_shape
from at2.model.weighing import Weighing


class AverageAttentionAttributor(WeightedAttentionAttributor):
    """Mean attention over layers and heads, summed over the tokens of a source."""

    name = "average_attention"

    @property
    def weighing(self) -> Weighing:
        """The same weight for every head."""
        return average_weighing(self.task.model)


def average_weighing(model: Any, *, contrast: bool = False) -> Weighing:
    """The same weight for every head of a model, 1 in all.

    Args:
        contrast: take off the attention of the query.
    """
    shape = attention_shape(model)
    count = shape.num_layers * shape.num_heads
    weights = torch.full((shape.num_layers, shape.num_heads), 1 / count)
    return Weighing(weights, contrast=contrast)
