"""ContextCite: a sparse linear model of what random ablations do to the response."""

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError, ModelError
from at2.methods.base import Attributor, PerResponse
from at2.model.ablation import Method, ablated_logit_probs, aggregate_logit_probs, sample_masks
from at2.ranges import TokenRange
from at2.seeds import FITTING_SEEDS, check_seeds
from at2.tasks import AttributionTask

NUM_ABLATIONS = 64
"""The published default."""

KEEP_PROBABILITY = 0.5
"""The published chance that an ablation keeps a source."""

LASSO_ALPHA = 0.01
"""The published strength of the penalty."""

_MAX_ITERATIONS = 10_000
"""Ten times scikit-learn's default: with more sources than ablations the fit is slow to settle."""


class ContextCiteAttributor(Attributor):
    """ContextCite (Cohen-Wang, Shah, Georgiev, Madry 2024, arXiv 2409.00729).

    The logit of the span's probability under random ablations is fitted by a LASSO over which
    sources were kept; a source's score is its weight, in logits of the whole span. Each span has a
    fit of its own, so spans do not add up, and many scores are exactly zero.

    Takes one forward pass for each ablation, whatever the number of spans, if it is prepared. If
    not, the first span is measured alone, by passes that end with it, and a second one takes as
    many again. The ablations are drawn from `at2.seeds.FITTING_SEEDS`, apart from those of training
    and evaluation.

    Args:
        task: the task to attribute.
        num_ablations: random sets of sources to try.
        keep_probability: the chance that a set keeps a source.
        alpha: strength of the LASSO penalty, on logits per token against standardised masks.
        ablation: how sources are hidden, see `at2.model.ablation.ablated_logit_probs`.
        seed: first of the ablations' seeds.

    Raises:
        InputError: a setting is out of range.
    """

    def __init__(
        self,
        task: AttributionTask,
        num_ablations: int = NUM_ABLATIONS,
        keep_probability: float = KEEP_PROBABILITY,
        alpha: float = LASSO_ALPHA,
        ablation: Method = "mask",
        seed: int = FITTING_SEEDS.start,
    ) -> None:
        super().__init__(task)
        check_seeds(seed, num_ablations, FITTING_SEEDS, param="num_ablations")
        if not 0 < keep_probability < 1:
            raise InputError(
                f"keep_probability is {keep_probability}, not between 0 and 1",
                param="keep_probability",
            )
        if not alpha > 0:
            raise InputError(f"alpha is {alpha}, not above 0", param="alpha")
        self.num_ablations = num_ablations
        self.keep_probability = keep_probability
        self.alpha = alpha
        self.ablation = ablation
        self.seed = seed
        self._measured = PerResponse[dict[TokenRange, NDArray[np.float64]]](task)

    @property
    def name(self) -> str:
        """With the number of ablations, unless that is the usual one."""
        usual = self.num_ablations == NUM_ABLATIONS
        return "context_cite" if usual else f"context_cite_{self.num_ablations}"

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Which sources each ablation keeps, [ablations, sources]."""
        return sample_masks(
            self.num_ablations, self.task.num_sources, self.keep_probability, self.seed
        )

    @property
    def ablations(self) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Masks [ablations, sources] and logits of the target tokens' probabilities
        [ablations, targets], computed when first read and kept while the response stays.

        Raises:
            PromptTooLongError: the model does not take prompt and response.
        """
        return self.masks, self._logit_probs(0, len(self.task.target_ids))

    def _logit_probs(self, token_start: int, token_end: int) -> NDArray[np.float64]:
        """Logits [ablations, tokens] of a span. The first span is measured alone; a second one
        outside it shows that there are several, and all of the target is measured."""
        measured = self._measured.get(dict)
        for (start, end), logit_probs in measured.items():
            if start <= token_start and token_end <= end:
                return logit_probs[:, token_start - start : token_end - start]
        task = self.task
        first, last = (0, len(task.target_ids)) if measured else (token_start, token_end)
        values = ablated_logit_probs(
            task.model,
            task.marked_tokens.part(first, last),
            self.masks,
            method=self.ablation,
            description="Ablating sources at random",
        )
        logit_probs = measured[first, last] = np.asarray(values, dtype=np.float64)
        return logit_probs[:, token_start - first : token_end - first]

    def prepare_for_attribution(self) -> None:
        """Measure the ablations."""
        if self.task.num_sources and not self.task.has_empty_target:
            _ = self.ablations

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        outputs = aggregate_logit_probs(self._logit_probs(token_start, token_end))
        if not np.isfinite(outputs).all():
            raise ModelError(
                f"{type(self.task.model).__name__} gives the span probabilities whose logits are "
                "not finite: nothing can be fitted to them"
            )
        return lasso_weights(self.masks, outputs, token_end - token_start, self.alpha)


def lasso_weights(
    masks: NDArray[np.bool_], outputs: NDArray[np.float64], num_tokens: int, alpha: float
) -> NDArray[np.float64]:
    """Weights [sources] of the sparse linear model, as the published package fits it.

    Args:
        masks: [ablations, sources], True where a source was kept.
        outputs: [ablations], the logit of the span's probability.
        num_tokens: of the span; the fit is to outputs per token, the weights are of the span again.
        alpha: strength of the penalty.
    """
    # Slow to import, and needed by this method alone.
    from sklearn.linear_model import Lasso

    kept = masks.astype(np.float64)
    spread = kept.std(axis=0)
    spread[spread == 0] = 1  # a source that was always kept, or never, tells nothing
    lasso = Lasso(alpha=alpha, max_iter=_MAX_ITERATIONS)
    lasso.fit((kept - kept.mean(axis=0)) / spread, outputs / num_tokens)
    weights: NDArray[np.float64] = lasso.coef_ / spread * num_tokens
    return weights
