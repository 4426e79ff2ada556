"""Evaluation of a whole data set, one example at a time."""

from collections.abc import Iterable

from tqdm.auto import tqdm

from at2.estimator.linear import LinearScoreEstimator
from at2.evaluation.examples import EvaluationExample, EvaluationSettings, evaluate_example
from at2.evaluation.summary import Evaluation, check_reference, summarise
from at2.methods import METHODS, AttributionMethod, method_named


def evaluate(
    examples: Iterable[EvaluationExample],
    methods: Iterable[AttributionMethod | str] | None = None,
    *,
    estimator: LinearScoreEstimator | None = None,
    settings: EvaluationSettings | None = None,
    reference: str | None = None,
    min_context_support: float | None = None,
    total: int | None = None,
) -> Evaluation:
    """Measure methods on examples, with a progress bar.

    Examples are taken one at a time and let go; what is kept of each is its metrics. To evaluate in
    parts, call `evaluate_example` and later `summarise`.

    Args:
        examples: in their order, which decides the masks that each draws.
        methods: methods or their names, see `at2.methods.method_named`; by default all of
            them, without those that need an estimator if there is none.
        estimator: for the methods that need one.
        settings: what is measured.
        reference: the method that the others are compared with; by default the first.
        min_context_support: leave out sentences that the context supports less, see `summarise`.
        total: the number of examples, for the progress bar.

    Raises:
        InputError: there is no method of a name, or none at all, or an example or setting does not
            fit. A wrong name is found before any example is measured.
    """
    settings = settings or EvaluationSettings()
    if methods is None:
        methods = [m for m in METHODS.values() if estimator is not None or not m.needs_estimator]
    chosen = [method_named(m) if isinstance(m, str) else m for m in methods]
    reference = check_reference(reference, [method.name for method in chosen])
    results = [
        evaluate_example(example, chosen, index=index, estimator=estimator, settings=settings)
        for index, example in enumerate(tqdm(examples, total=total, desc="Evaluating"))
    ]
    return summarise(
        results,
        settings=settings,
        reference=reference,
        min_context_support=min_context_support,
    )
