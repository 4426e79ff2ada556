"""Fusion: AT2 with lexical overlap, and with what a retriever said of the documents.

    fused(s) = Σ over signals of weight · share(s),    share(s) = max(x(s), 0) / Σ max(x, 0)

Signals have no common unit, so each counts as shares of what speaks for a span: x is a source's AT2
score, its lexical overlap with the span, or its retrieval score. The weights of the signals that
are there add up to 1, so the fused scores are shares too: none is negative and they add up to 1,
or to less where a signal is zero everywhere. They are no predicted changes of a log-probability,
and as overlap does not, they do not add up over levels: a document's share is not the sum of its
sentences'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Real
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError
from at2.methods.base import Attributor, PerResponse
from at2.methods.controls import LexicalOverlapAttributor
from at2.tasks import AttributionTask

SIGNALS = ("attribution", "overlap", "retrieval")
"""What is fused: a method that asks the model, shared words, and the caller's retrieval scores."""

DEFAULT_WEIGHTS: Mapping[str, float] = MappingProxyType(
    {"attribution": 0.36, "overlap": 0.28, "retrieval": 0.36}
)
"""Fitted by `benchmarks.fusion` to other questions than those that its figures are of, with TF-IDF
for a retriever; a better one is worth more."""


def check_retrieval_scores(
    scores: Sequence[float] | NDArray[Any], num_documents: int, num_sources: int
) -> NDArray[np.float64]:
    """Retrieval scores as an array, one a document or one a source.

    Raises:
        InputError: their number is neither, or one is not a finite number.
    """
    given = list(scores)
    if len(given) not in (num_documents, num_sources):
        raise InputError(
            f"{len(given)} retrieval scores for {num_documents} documents with {num_sources} "
            "sources: give one for each document or for each source",
            param="retrieval_scores",
        )
    for place, score in enumerate(given):
        if isinstance(score, bool) or not isinstance(score, Real) or not isfinite(score):
            raise InputError(
                f"retrieval score {place} is {score!r}, not a finite number",
                param="retrieval_scores",
            )
    return np.array(given, dtype=np.float64)


@dataclass(frozen=True)
class Fused:
    """A span's signals as shares, and what they come to.

    Attributes:
        shares: by signal, [sources].
        scores: [sources].
    """

    shares: Mapping[str, NDArray[np.float64]]
    scores: NDArray[np.float64]


class FusionAttributor(Attributor):
    """Several methods in one ranking.

    Args:
        attributor: what asks the model: AT2, or another method.
        retrieval_scores: higher is better, one for each document (given to each of its sources) or
            one for each source; of a retriever or a reranker. Of scores below zero the smallest is
            taken off all, as logits and negative distances have no zero of their own.
        weights: by signal; by default `DEFAULT_WEIGHTS`.

    Raises:
        InputError: scores of another number, or not finite; a weight that is unknown, negative or
            not finite, or only weights of zero.
    """

    name = "fusion"

    def __init__(
        self,
        attributor: Attributor,
        retrieval_scores: Sequence[float] | None = None,
        weights: Mapping[str, float] = DEFAULT_WEIGHTS,
    ) -> None:
        task: AttributionTask = attributor.task
        super().__init__(task)
        self.attributor = attributor
        self.weights = _checked(weights)
        self._overlap = LexicalOverlapAttributor(task)
        self.use_retrieval_scores(retrieval_scores)

    def use_retrieval_scores(self, scores: Sequence[float] | None) -> None:
        """Take other retrieval scores, or none; see the class."""
        if scores is not None:
            check_retrieval_scores(
                scores, len(self.task.source_documents), len(self.task.source_spans)
            )
        self._retrieval = scores
        self._recent = PerResponse(self.task)

    def _retrieved(self, scores: Sequence[float]) -> NDArray[np.float64]:
        """Retrieval scores [sources], none below zero."""
        documents = [source.document for source in self.task.source_spans]
        count = len(self.task.source_documents)
        given = check_retrieval_scores(scores, count, len(documents))
        given = given - min(0.0, float(given.min(initial=0.0)))
        return given[documents] if len(given) == count else given

    def prepare_for_attribution(self) -> None:
        """Prepare what is fused."""
        self.attributor.prepare_for_attribution()
        self._overlap.prepare_for_attribution()

    def fused(self, token_start: int, token_end: int) -> Fused:
        """The signals of a span, in tokens of the target, and their sum by weight."""
        methods = {"attribution": self.attributor, "overlap": self._overlap}
        shares = {
            name: _shares(
                method.get_attribution_scores(token_start=token_start, token_end=token_end)
            )
            for name, method in methods.items()
        }
        if self._retrieval is not None:
            shares["retrieval"] = _shares(self._retrieved(self._retrieval))
        total = sum(self.weights[name] for name in shares) or 1.0
        scores = np.zeros(self.task.num_sources)
        for name, share in shares.items():
            scores += self.weights[name] / total * share
        return Fused(shares, scores)

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        return self.fused(token_start, token_end).scores


def _shares(values: NDArray[Any]) -> NDArray[np.float64]:
    positive = np.maximum(np.nan_to_num(np.asarray(values, dtype=np.float64)), 0.0)
    total = float(positive.sum())
    return positive / total if total > 0 else positive


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in SIGNALS:
            raise InputError(
                f"no signal {name!r} to weigh; there are: {', '.join(SIGNALS)}", param="weights"
            )
        if not isfinite(weight) or weight < 0:
            raise InputError(
                f"the weight of {name} is {weight}, not at least 0 and finite", param="weights"
            )
    checked = {name: float(weights.get(name, 0.0)) for name in SIGNALS}
    if not checked["attribution"] + checked["overlap"] > 0:
        raise InputError("the weights of attribution and overlap are both 0", param="weights")
    return checked
