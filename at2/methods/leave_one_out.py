"""Leave-one-out: hide one source at a time and see what the response loses."""

import numpy as np
from numpy.typing import NDArray

from at2.methods.base import TokenScoreAttributor
from at2.model.ablation import Method, ablated_logit_probs, sequence_log_probs
from at2.tasks import AttributionTask


class LeaveOneOutAttributor(TokenScoreAttributor):
    """The drop in log-probability when one source is hidden, in nats per token of the span.

    `score[t, s] = log p(t | all sources) - log p(t | all but s)`, each given the response before t.
    A span's score is the mean over its tokens like any other method's, so that long and short spans
    compare; times the number of tokens it is the drop in the span's log-probability.

    Takes one forward pass for each source and one for all of them.

    Args:
        task: the task to attribute.
        ablation: how a source is hidden, see `at2.model.ablation.ablated_logit_probs`.
    """

    name = "leave_one_out"

    def __init__(self, task: AttributionTask, ablation: Method = "mask") -> None:
        super().__init__(task)
        self.ablation = ablation

    def _compute_scores(self) -> NDArray[np.float32]:
        task = self.task
        everything = np.ones((1, task.num_sources), dtype=np.bool_)
        all_but_one = ~np.eye(task.num_sources, dtype=np.bool_)
        logit_probs = ablated_logit_probs(
            task.model,
            task.marked_tokens,
            np.concatenate([everything, all_but_one]),
            method=self.ablation,
            description="Leaving out one source at a time",
        )
        log_probs = sequence_log_probs(logit_probs[..., None])  # [1 + sources, targets]
        drops: NDArray[np.float64] = log_probs[:1] - log_probs[1:]
        return drops.T.astype(np.float32)
