"""Contrastive attention: average attention of the response, less that of the query.

score(t, s) = Σ over tokens k of s of mean over layers and heads of
(A[t - 1, k] − mean over positions q of the query of A[q, k])

The query is what stands between the last source and the response. What is taken off is what the
heads look at whoever asks, above all the beginning of the context. It needs no training and no
pass of its own.
"""

import numpy as np
from numpy.typing import NDArray

from at2.methods.average_attention import average_head_weights
from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model.attention import token_scores


class ContrastiveAttentionAttributor(WeightedAttentionAttributor):
    """Mean attention over layers and heads, less that of the query, summed over a source."""

    def _compute_token_scores(self) -> NDArray[np.float32]:
        task = self.task
        scores = token_scores(
            task.model,
            task.token_ids,
            task.target_token_range,
            average_head_weights(task.model),
            query_range=task.query_token_range,
        )
        return scores.cpu().numpy()
