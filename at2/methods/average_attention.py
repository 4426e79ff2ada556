"""Average attention: the baseline that weighs every head of every layer alike."""

import numpy as np
import torch
from numpy.typing import NDArray

from at2.methods.base import TokenScoreAttributor, sum_by_source
from at2.model.attention import attention_shape, token_scores


class AverageAttentionAttributor(TokenScoreAttributor):
    """Mean attention over layers and heads, summed over the tokens of a source."""

    def _compute_scores(self) -> NDArray[np.float32]:
        task = self.task
        shape = attention_shape(task.model)
        weights = torch.full(
            (shape.num_layers, shape.num_heads), 1 / (shape.num_layers * shape.num_heads)
        )
        scores = token_scores(task.model, task.token_ids, task.target_token_range, weights)
        return sum_by_source(scores.cpu().numpy(), task.source_token_ranges)
