"""AT2: attribution scores from attention weights and a trained score estimator.

score(t, s) = Σ over tokens k of s, layers and heads of weight[layer, head] · A[layer, head, t-1, k]

The attention of target token t is that of the position before it, where the model predicts it. A
span's score is the mean over its tokens.
"""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import LinearScoreEstimator
from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model.weighing import Weighing
from at2.tasks import AttributionTask


class AT2Attributor(WeightedAttentionAttributor):
    """Attribution with attention (Cohen-Wang, Chuang, Madry 2025, arXiv 2504.13752).

    One forward pass gives the scores of all tokens and sources.

    Args:
        task: the task to attribute.
        score_estimator: the trained weights.
        cache: where scores are looked for and put; see `TokenScoreAttributor`.

    Raises:
        EstimatorMismatchError: the estimator was trained for another model.
    """

    def __init__(
        self,
        task: AttributionTask,
        score_estimator: LinearScoreEstimator,
        cache: MutableMapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task, cache)
        score_estimator.check_fits(ModelIdentity.of(task.model, task.tokenizer))
        self.score_estimator = score_estimator

    @classmethod
    def from_path(cls, task: AttributionTask, path: str | Path) -> "AT2Attributor":
        """Use the estimator in a file (`.pt` or `.safetensors`) or a folder."""
        return cls(task, LinearScoreEstimator.load(path))

    @classmethod
    def from_hub(
        cls, task: AttributionTask, model_name: str, revision: str | None = None
    ) -> "AT2Attributor":
        """Use an estimator from the hub, e.g. "madrylab/at2-phi-4-mini-instruct".

        Args:
            revision: branch, tag or commit.
        """
        return cls(task, LinearScoreEstimator.from_hub(model_name, revision=revision))

    @property
    def weighing(self) -> Weighing:
        """The estimator's weights."""
        return self.score_estimator.weighing
