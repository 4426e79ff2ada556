"""Gradients as attribution: how steeply the response's probability depends on each source.

All ask for the gradient of the span's mean log-probability, in nats per token: two with respect to
the input embeddings, for which one forward and one backward pass for each span serve both, and one
with respect to how much of each source is seen.
"""

import weakref
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from at2.errors import InputError
from at2.methods.base import RECENT_SPANS, Attributor, PerResponse, sum_by_source
from at2.model.gradients import embedding_gradients
from at2.model.visibility import check_visibility, visibility_gradients
from at2.ranges import TokenRange
from at2.tasks import AttributionTask

DEFAULT_VISIBILITY = 0.25
"""What predicts ablations best of what was tried: see docs/experiments.md."""


class GradientNormAttributor(Attributor):
    """The length of the gradient, summed over the tokens of a source (Simonyan, Vedaldi, Zisserman
    2013, arXiv 1312.6034; for language models Yin and Neubig 2022, arXiv 2202.10419).

    Never negative, so it cannot tell a source that speaks for the span from one against it. The
    length of a sum is not the sum of lengths: a span is more than the mean of its tokens.

    Args:
        task: the task to attribute.
        order: 2 for the Euclidean norm, 1 for the sum of absolute values, as in Yin and Neubig.

    Raises:
        InputError: the order is neither.
    """

    name = "gradient_norm"

    def __init__(self, task: AttributionTask, order: Literal[1, 2] = 2) -> None:
        super().__init__(task)
        if order not in (1, 2):
            raise InputError(f"order is {order!r}, not 1 or 2", param="order")
        self.order = order

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float32]:
        by_token = _by_token(self.task, token_start, token_end)
        norms = by_token.norms if self.order == 2 else by_token.absolute_sums
        return _by_source(self.task, norms / (token_end - token_start))


class InputTimesGradientAttributor(Attributor):
    """Embedding times gradient, summed over width and over the tokens of a source (Shrikumar et al.
    2016, arXiv 1605.01713; for transformers Denil et al. 2014, arXiv 1412.6815).

    The first-order estimate of what the log-probability loses when the embeddings shrink to zero.
    A span is the mean over its tokens.

    Args:
        task: the task to attribute.
    """

    name = "input_x_gradient"

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float32]:
        products = _by_token(self.task, token_start, token_end).products
        return _by_source(self.task, products / (token_end - token_start))


class VisibilityGradientAttributor(Attributor):
    """The slope in how much of a source the model sees, with little of every source in view.

    Ablations hide sources, or do not: a visibility of 0 or 1 each. The expectation over ablations
    that hide a source with probability 1 - v is, for v from 0 to 1, a smooth function of the
    sources' probabilities (their multilinear extension, Owen 1972), and its slope is what a linear
    model of ablations, as in ContextCite (Cohen-Wang et al. 2024, arXiv 2409.00729), fits for each
    source. Here the expectation is taken inside the model: attention sees v of each source
    (`at2.model.visibility`), and one pass forward and one back give all slopes. In full view they
    would say little: what the response rests on is seen well enough there.

    A span is the mean over its tokens, in nats per token for a whole source.

    Args:
        task: the task to attribute.
        visibility: v, from `LEAST_VISIBILITY` (1e-30) to 1.

    Raises:
        InputError: the visibility is out of range.
    """

    name = "visibility_gradient"

    def __init__(self, task: AttributionTask, visibility: float = DEFAULT_VISIBILITY) -> None:
        super().__init__(task)
        check_visibility(visibility)
        self.visibility = visibility
        self._recent: PerResponse[dict[TokenRange, NDArray[np.float32]]] = PerResponse(task)

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float32]:
        recent, span = self._recent.get(dict), (token_start, token_end)
        if span not in recent:
            tokens = self.task.marked_tokens.part(token_start, token_end)
            slopes = visibility_gradients(self.task.model, tokens, self.visibility)
            while len(recent) >= RECENT_SPANS:
                del recent[next(iter(recent))]
            recent[span] = (slopes / (token_end - token_start)).numpy().astype(np.float32)
        return recent[span].copy()


@dataclass(frozen=True)
class _ByToken:
    """What the gradient of a span's log-probability comes to for each token that was read.

    Attributes:
        norms, absolute_sums: [tokens], of the gradient.
        products: [tokens], embedding times gradient, summed over width.
    """

    norms: Tensor
    absolute_sums: Tensor
    products: Tensor


_recent: WeakKeyDictionary[AttributionTask, PerResponse[dict[TokenRange, _ByToken]]] = (
    WeakKeyDictionary()
)
"""What was found for the last spans of each task, whichever method asked for it."""


def _by_token(task: AttributionTask, token_start: int, token_end: int) -> _ByToken:
    if task not in _recent:
        # Held by the task's own methods as well, it must not keep the task alive.
        _recent[task] = PerResponse(weakref.proxy(task))
    recent = _recent[task].get(dict)
    span = token_start, token_end
    if span not in recent:
        measured = embedding_gradients(task.model, task.marked_tokens.part(token_start, token_end))
        gradients = measured.gradients
        while len(recent) >= RECENT_SPANS:
            del recent[next(iter(recent))]
        recent[span] = _ByToken(
            gradients.norm(dim=-1),
            gradients.norm(p=1, dim=-1),
            (measured.embeddings.double() * gradients.double()).sum(-1),
        )
    return recent[span]


def _by_source(task: AttributionTask, by_token: Tensor) -> NDArray[np.float32]:
    sums: NDArray[np.float32] = sum_by_source(by_token.numpy()[None], task.source_token_ranges)[0]
    return sums
