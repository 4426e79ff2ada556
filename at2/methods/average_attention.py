"""Average attention: the baseline that weighs every head of every layer alike.

score(t, s) = Σ over tokens k of s of mean over layers and heads of A[t - 1, k]
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model.attention import attention_shape, token_scores


class AverageAttentionAttributor(WeightedAttentionAttributor):
    """Mean attention over layers and heads, summed over the tokens of a source."""

    def _compute_token_scores(self) -> NDArray[np.float32]:
        task = self.task
        scores = token_scores(
            task.model, task.token_ids, task.target_token_range, average_head_weights(task.model)
        )
        return scores.cpu().numpy()


def average_head_weights(model: Any) -> torch.Tensor:
    """The same weight for every head of a model, 1 in all: [layers, heads]."""
    shape = attention_shape(model)
    count = shape.num_layers * shape.num_heads
    return torch.full((shape.num_layers, shape.num_heads), 1 / count)
