"""Contrastive attention: average attention of the response, less that of the query.

score(t, s) = Σ over tokens k of s of mean over layers and heads of
(A[t - 1, k] − mean over positions q of the query of A[q, k])

The query is what stands between the last source and the response. What is taken off is what the
heads look at whoever asks, above all the beginning of the context. It needs no training and no
pass of its own.
"""

from at2.methods.average_attention import average_weighing
from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model.weighing import Weighing


class ContrastiveAttentionAttributor(WeightedAttentionAttributor):
    """Mean attention over layers and heads, less that of the query, summed over a source."""

    name = "contrastive_attention"

    @property
    def weighing(self) -> Weighing:
        """The same weight for every head, less what the query pays."""
        return average_weighing(self.task.model, contrast=True)
