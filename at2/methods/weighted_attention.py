"""What AT2 and average attention have in common: weighted attention, token by token.

score(t, s) = Σ over tokens k of s of score(t, k), which sums weight × attention over the heads

Scores of all tokens serve sources of any size, and may have been taken while the response was
written: then there is no pass over the model.
"""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError
from at2.methods.base import TokenScoreAttributor, sum_by_source
from at2.model.attention import token_scores
from at2.model.weighing import Weighing


class WeightedAttentionAttributor(TokenScoreAttributor):
    """A method that scores every token of the prompt for every token of the target."""

    @property
    @abstractmethod
    def weighing(self) -> Weighing:
        """The weights of layers and heads."""

    def use_token_scores(self, token_scores: NDArray[np.float32]) -> None:
        """Take scores that are known already in place of a pass, as long as the response stays.

        Args:
            token_scores: [targets, tokens], from the first token of all to the last source at
                least; see `at2.model.weighing.TokenScores.of`.

        Raises:
            InputError: they are of another number of targets, or some sources have none.
        """
        targets = len(self.task.target_ids)
        needed = max((end for _, end in self.task.source_token_ranges), default=0)
        if token_scores.shape[0] != targets or token_scores.shape[1] < needed:
            raise InputError(
                f"scores of shape {list(token_scores.shape)} for {targets} target tokens "
                f"and sources up to token {needed}",
                param="token_scores",
            )
        self._scores.put(sum_by_source(token_scores, self.task.source_token_ranges))

    def _compute_scores(self) -> NDArray[np.float32]:
        scores = token_scores(self.task.model, self.task.marked_tokens, self.weighing)
        return sum_by_source(scores.cpu().numpy(), self.task.source_token_ranges)
