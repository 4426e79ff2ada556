"""Many examples together: means over sentences, with intervals from resampled documents.

Sentences of one response hang together, so the bootstrap draws whole examples: the same draws for
all methods, which makes differences between two methods paired. Knows numbers only.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError
from at2.evaluation.examples import EvaluationSettings, ExampleResult

RESAMPLES = 2_000
"""Draws of the bootstrap; the ends of an interval then move by a few per cent of its length."""

CONFIDENCE = 0.95
"""Share of the draws inside an interval."""


@dataclass(frozen=True)
class Estimate:
    """A mean over sentences.

    Attributes:
        mean: over all sentences to which the metric applies.
        low, high: the percentile bootstrap interval; None with fewer than two documents.
        sentences: how many there were.
        documents: in how many examples.
    """

    mean: float
    low: float | None
    high: float | None
    sentences: int
    documents: int


@dataclass(frozen=True)
class MeanPasses:
    """Passes over the model per response, averaged over examples with sentences."""

    forward: float
    backward: float


@dataclass(frozen=True)
class Evaluation:
    """The result for a data set.

    Attributes:
        settings: what was measured.
        reference: the method that the others are compared with.
        num_examples, num_sentences: examples seen, and sentences measured in them.
        passes: by method.
        values: by method, then by metric.
        differences: by method, then by metric: the reference's value minus the method's, on the
            same sentences. The reference is left out.
    """

    settings: EvaluationSettings
    reference: str
    num_examples: int
    num_sentences: int
    passes: Mapping[str, MeanPasses]
    values: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]

    @property
    def methods(self) -> list[str]:
        """The methods, in the order in which they were given."""
        return list(self.values)

    @property
    def metrics(self) -> list[str]:
        """The metrics that applied to any sentence, in the order in which they are computed."""
        names: dict[str, None] = {}
        for of_method in self.values.values():
            names |= dict.fromkeys(of_method)
        return list(names)

    def to_dict(self) -> dict[str, Any]:
        """The same in plain types."""
        return asdict(self)

    def to_json(self) -> str:
        """The same as JSON, always the same text for the same results."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def summarise(
    results: Iterable[ExampleResult],
    *,
    settings: EvaluationSettings | None = None,
    reference: str | None = None,
    min_context_support: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Put the results of examples together.

    Args:
        results: of different examples, in any order, each with the same methods.
        settings: under which they were measured.
        reference: the method that the others are compared with; by default the first.
        min_context_support: leave out sentences whose context supports them less, in nats a token,
            and those of which it is not known.
        resamples: draws of the bootstrap.
        seed: of these draws.

    Raises:
        InputError: there are no results, the same example comes twice, they are of different
            methods, or the reference is none of them.
    """
    ordered = sorted(results, key=lambda result: result.index)
    if not ordered:
        raise InputError("there are no examples to evaluate")
    methods = list(ordered[0].passes)
    for before, result in pairwise(ordered):
        if result.index == before.index:
            raise InputError(f"example {result.index} comes twice")
        if set(result.passes) != set(methods):
            raise InputError(
                f"example {result.index} has methods {', '.join(result.passes)}, "
                f"not {', '.join(methods)}"
            )
    reference = check_reference(reference, methods)
    if min_context_support is not None:
        ordered = [_supported(result, min_context_support) for result in ordered]
    draws = _draws(len(ordered), resamples, seed)
    metrics = _metrics(ordered)
    measured = [result for result in ordered if result.sentences]
    values: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    for method in methods:
        values[method] = _estimates(ordered, draws, metrics, method)
        if method != reference:
            differences[method] = _estimates(ordered, draws, metrics, reference, minus=method)
    return Evaluation(
        settings=settings or EvaluationSettings(),
        reference=reference,
        num_examples=len(ordered),
        num_sentences=sum(len(result.sentences) for result in ordered),
        passes={method: _mean_passes(measured, method) for method in methods},
        values=values,
        differences=differences,
    )


def check_reference(reference: str | None, methods: Sequence[str]) -> str:
    """The method that the others are compared with: the first unless one is named.

    Raises:
        InputError: there are no methods, or the reference is none of them.
    """
    if not methods:
        raise InputError("there are no methods to evaluate", param="methods")
    if reference is not None and reference not in methods:
        raise InputError(
            f"reference {reference!r} is not one of {', '.join(methods)}", param="reference"
        )
    return methods[0] if reference is None else reference


def _supported(result: ExampleResult, least: float) -> ExampleResult:
    """The result with those sentences only that the context supports."""
    sentences = (
        s for s in result.sentences if s.context_support is not None and s.context_support >= least
    )
    return replace(result, sentences=tuple(sentences))


def _metrics(results: Sequence[ExampleResult]) -> list[str]:
    names: dict[str, None] = {}
    for result in results:
        for sentence in result.sentences:
            for of_method in sentence.values.values():
                names |= dict.fromkeys(of_method)
    return list(names)


def _mean_passes(results: Sequence[ExampleResult], method: str) -> MeanPasses:
    if not results:
        return MeanPasses(0.0, 0.0)
    forward, backward = np.mean([result.passes[method] for result in results], axis=0)
    return MeanPasses(float(forward), float(backward))


def _estimates(
    results: Sequence[ExampleResult],
    draws: NDArray[np.float64],
    metrics: Sequence[str],
    method: str,
    minus: str | None = None,
) -> dict[str, Estimate]:
    estimates = {}
    for metric in metrics:
        of_documents = [_values(result, metric, method, minus) for result in results]
        if any(of_documents):
            estimates[metric] = _estimate(of_documents, draws)
    return estimates


def _values(result: ExampleResult, metric: str, method: str, minus: str | None) -> list[float]:
    """The metric of a document's sentences, or its difference where both methods have it."""
    values = []
    for sentence in result.sentences:
        value = sentence.values[method].get(metric)
        other = 0.0 if minus is None else sentence.values[minus].get(metric)
        if value is not None and other is not None:
            values.append(value - other)
    return values


def _draws(num_documents: int, resamples: int, seed: int) -> NDArray[np.float64]:
    """How often each resample draws each document, [resamples, documents]."""
    random = np.random.default_rng(seed)
    shares = np.full(num_documents, 1 / num_documents)
    return random.multinomial(num_documents, shares, size=resamples).astype(np.float64)


def _estimate(values: Sequence[Sequence[float]], draws: NDArray[np.float64]) -> Estimate:
    """The mean of all values, given per document, and its interval."""
    sums = np.array([sum(of_document) for of_document in values])
    counts = np.array([len(of_document) for of_document in values], dtype=np.float64)
    documents = int((counts > 0).sum())
    low = high = None
    if documents > 1:
        drawn = draws @ counts
        means = (draws @ sums)[drawn > 0] / drawn[drawn > 0]
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(means, [tail, 1 - tail]).tolist()
    return Estimate(
        mean=float(sums.sum() / counts.sum()),
        low=low,
        high=high,
        sentences=int(counts.sum()),
        documents=documents,
    )
