"""AT2: attribution scores from attention weights and a trained score estimator.

score(t, s) = Σ over tokens k of s, layers and heads of weight[layer, head] · A[layer, head, t-1, k]

The attention of target token t is that of the position before it, where the model predicts it. A
span's score is the mean over its tokens.
"""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from at2.errors import EstimatorError
from at2.estimator.identity import ModelIdentity
from at2.estimator.known import find_estimator
from at2.estimator.linear import LinearScoreEstimator
from at2.methods.weighted_attention import WeightedAttentionAttributor
from at2.model.weighing import Weighing
from at2.tasks import AttributionTask


class AT2Attributor(WeightedAttentionAttributor):
    """Attribution with attention (Cohen-Wang, Chuang, Madry 2025, arXiv 2504.13752).

    One forward pass gives the scores of all tokens and sources.

    Args:
        task: the task to attribute.
        score_estimator: the trained weights; by default those at hand that belong to the model,
            see `at2.estimator.known.find_estimator`.
        cache: where scores are looked for and put; see `TokenScoreAttributor`.

    Raises:
        EstimatorMismatchError: the estimator was trained for another model.
        EstimatorError: none is given, and none at hand belongs to the model.
    """

    name = "at2"

    def __init__(
        self,
        task: AttributionTask,
        score_estimator: LinearScoreEstimator | None = None,
        cache: MutableMapping[str, Any] | None = None,
    ) -> None:
        super().__init__(task, cache)
        identity = ModelIdentity.of(task.model, task.tokenizer)
        if score_estimator is None:
            found = find_estimator(task.model, task.tokenizer)
            if found is None:
                raise EstimatorError(
                    f"no estimator at hand belongs to {identity.describe()}: give one, train one, "
                    "or use contrastive_attention, which needs none"
                )
            score_estimator = found[1]
        score_estimator.check_fits(identity)
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
