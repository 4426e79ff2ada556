"""One example: what each method says about each sentence of the response, and what is true.

With keep-vector v and f(v) the log-probability of the sentence with the sources where v = 0 hidden:

- `lds/<ablation>`: Spearman's correlation of f(v) and Σ_j score_j · v_j over random v.
- `drop@k/<ablation>`: (f(all) - f(all but the top k)) / tokens, in nats.
- `precision@k`, `recall@k`: the top k against the sources that are known to support the sentence.

Beside these stands how much the context supports the sentence, (f(all) - f(none)) / tokens in nats
(see `at2.evaluation.support`). A sentence that is as likely without the context has no source to be
found, and its LDS asks for the order of effects near zero.

A sentence for which f is constant has no LDS, and one for which it is not finite no drops either;
one with fewer than k sources has no metric at k; one whose support is not known, or is empty, has
no precision or recall. Whether a sentence counts never depends on the method, so methods are always
compared on the same sentences.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from at2.errors import InputError
from at2.estimator.linear import LinearScoreEstimator
from at2.evaluation.verify import all_and_none
from at2.methods import AttributionMethod
from at2.metrics import linear_datamodeling_score, precision_at, recall_at
from at2.model.ablation import Method, ablated_logit_probs, sample_masks, sequence_log_probs
from at2.ranges import TokenRange
from at2.ranking import best_sources
from at2.seeds import EVALUATION_SEEDS, check_seeds
from at2.tasks import AttributionTask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured.

    Attributes:
        num_masks: random ablations per example, for LDS.
        keep_probability: the chance that one keeps a source.
        top_k: the k of drops, precision and recall.
        ablations: how sources are hidden; each gives an LDS and drops of its own.
        seed: another seed draws other masks, always within `at2.seeds.EVALUATION_SEEDS`.

    Raises:
        InputError: a setting is out of range.
    """

    num_masks: int = 128
    keep_probability: float = 0.5
    top_k: tuple[int, ...] = (1, 3, 5)
    ablations: tuple[Method, ...] = ("mask", "remove")
    seed: int = 0

    def __post_init__(self) -> None:
        check_seeds(EVALUATION_SEEDS.start, self.num_masks, EVALUATION_SEEDS, param="num_masks")
        if not 0 < self.keep_probability < 1:
            raise InputError(
                f"keep_probability is {self.keep_probability}, not between 0 and 1",
                param="keep_probability",
            )
        if any(k < 1 for k in self.top_k):
            raise InputError(f"top_k {self.top_k} has a number below 1", param="top_k")
        for ablation in self.ablations:
            if ablation not in get_args(Method):
                raise InputError(
                    f"unknown ablation method {ablation!r}: not one of mask, remove",
                    param="ablations",
                )

    def masks(self, index: int, num_sources: int) -> NDArray[np.bool_]:
        """The keep-vectors [masks, sources] of an example; each example draws its own."""
        shift = (self.seed + index) * self.num_masks % (len(EVALUATION_SEEDS) - self.num_masks + 1)
        seed = EVALUATION_SEEDS.start + shift
        return sample_masks(self.num_masks, num_sources, self.keep_probability, seed)


@dataclass(frozen=True)
class EvaluationExample:
    """A task with its response, and what is known to be right.

    Attributes:
        task: the task; its response is generated if it has none.
        support: per sentence of the target (`task.statements`) the sources that are known to
            support it, or None where that is not known; None if nothing is known.
    """

    task: AttributionTask
    support: Sequence[Collection[int] | None] | None = None


@dataclass(frozen=True)
class SentenceResult:
    """Metrics of one sentence.

    Attributes:
        statement: its place among `task.statements`.
        num_tokens: its length.
        values: by method, then by metric, those that apply.
        context_support: what its log-probability loses with all sources hidden, in nats a token,
            by the first way of hiding; None where nothing was hidden.
    """

    statement: int
    num_tokens: int
    values: Mapping[str, Mapping[str, float]]
    context_support: float | None = None


@dataclass(frozen=True)
class ExampleResult:
    """Metrics of one example.

    Attributes:
        index: its place in the data.
        num_sources: how many there were.
        passes: by method, the forward and backward passes that its sentences took.
        sentences: those with at least one token.
    """

    index: int
    num_sources: int
    passes: Mapping[str, tuple[int, int]]
    sentences: tuple[SentenceResult, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same in plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ExampleResult":
        """The result that `to_dict` describes."""
        return TypeAdapter(cls).validate_python(values)


def evaluate_example(
    example: EvaluationExample,
    methods: Sequence[AttributionMethod],
    *,
    index: int = 0,
    estimator: LinearScoreEstimator | None = None,
    settings: EvaluationSettings | None = None,
) -> ExampleResult:
    """Measure every method on every sentence of one response.

    Args:
        index: the example's place in the data; it decides which masks are drawn.
        estimator: for the methods that need one.

    Raises:
        InputError: the support is not one collection of source numbers per statement, two methods
            share a name, or a method needs an estimator.
    """
    settings = settings or EvaluationSettings()
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InputError(f"two methods share a name: {', '.join(names)}", param="methods")
    task = example.task
    _check_support(example)
    spans = [task.target_range_to_token_range(*s, relative=True) for s in task.statements]
    if not spans or task.num_sources == 0:
        return ExampleResult(index, task.num_sources, {name: (0, 0) for name in names}, ())

    # 1. What the methods say: [spans, sources] each.
    scores = {method.name: _scores(method, task, estimator, spans) for method in methods}

    # 2. What is true. One call per way of hiding; what several methods hide is hidden once.
    values: list[dict[str, dict[str, float]]] = [{name: {} for name in names} for _ in spans]
    ks = [k for k in settings.top_k if k <= task.num_sources]
    masks = settings.masks(index, task.num_sources)
    hidden = [
        best_sources(scores[name][i], k) for i in range(len(spans)) for name in names for k in ks
    ]
    chosen = np.ones((len(hidden), task.num_sources), dtype=np.bool_)
    for row, sources in enumerate(hidden):
        chosen[row, sources] = False
    supports: list[float | None] = [None] * len(spans)
    for ablation in settings.ablations:
        logit_probs = ablated_logit_probs(
            task.model,
            task.marked_tokens,
            np.concatenate([masks, all_and_none(task.num_sources), chosen]),
            method=ablation,
        )
        row = len(masks) + 1
        for i, (start, end) in enumerate(spans):
            if not np.isfinite(logit_probs[:, start:end]).all():
                logger.warning(
                    "example %d, sentence %d: the model gives numbers that are not finite", index, i
                )
                row += len(names) * len(ks)
                continue
            log_probs = sequence_log_probs(logit_probs[:, start:end])
            full, none = log_probs[len(masks) : len(masks) + 2]
            if supports[i] is None:
                supports[i] = float(full - none) / (end - start)
            for name in names:
                lds = linear_datamodeling_score(scores[name][i], masks, log_probs[: len(masks)])
                if lds is not None:
                    values[i][name][f"lds/{ablation}"] = lds
                for k in ks:
                    row += 1
                    drop = (full - log_probs[row]) / (end - start)
                    values[i][name][f"drop@{k}/{ablation}"] = float(drop)

    # 3. What is known.
    for i, support in enumerate(example.support or ()):
        if not support:
            continue
        for name in names:
            for k in ks:
                values[i][name][f"precision@{k}"] = precision_at(scores[name][i], support, k)
                values[i][name][f"recall@{k}"] = recall_at(scores[name][i], support, k)
    return ExampleResult(
        index,
        task.num_sources,
        {method.name: _passes(method, task.num_sources, len(spans)) for method in methods},
        tuple(
            SentenceResult(i, end - start, of_sentence, support)
            for i, ((start, end), of_sentence, support) in enumerate(
                zip(spans, values, supports, strict=True)
            )
        ),
    )


def _scores(
    method: AttributionMethod,
    task: AttributionTask,
    estimator: LinearScoreEstimator | None,
    spans: Sequence[TokenRange],
) -> NDArray[np.float32]:
    """Scores [spans, sources]; the attributor is let go, with what it has computed."""
    attributor = method.build(task, estimator)
    if len(spans) > 1:
        attributor.prepare_for_attribution()
    return np.stack(
        [attributor.get_attribution_scores(token_start=s, token_end=e) for s, e in spans]
    )


def _passes(method: AttributionMethod, num_sources: int, num_spans: int) -> tuple[int, int]:
    passes = method.passes(num_sources)
    return (
        passes.forward + num_spans * passes.forward_per_span,
        num_spans * passes.backward_per_span,
    )


def _check_support(example: EvaluationExample) -> None:
    if example.support is None:
        return
    count, num_sources = len(example.task.statements), example.task.num_sources
    if len(example.support) != count:
        raise InputError(
            f"support for {len(example.support)} statements, but the response has {count}",
            param="support",
        )
    for source in (source for support in example.support for source in support or ()):
        if not 0 <= source < num_sources:
            raise InputError(
                f"supporting source {source} is not one of {num_sources}", param="support"
            )


def overlapping_sources(
    task: AttributionTask, ranges: Collection[tuple[int, int, int]]
) -> frozenset[int]:
    """The sources that share a character with a range `(document, start, end)`: for data that tell
    where the support is in the text."""
    return frozenset(
        span.index
        for span in task.source_spans
        for document, start, end in ranges
        if span.document == document and span.start < end and start < span.end
    )
