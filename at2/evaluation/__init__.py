"""How good attribution methods are, side by side.

Order of reading: `examples` measures one example, `summary` puts many together with intervals,
`report` shows them. The metrics themselves are in `at2.metrics`.
"""

from at2.evaluation.examples import (
    EvaluationExample,
    EvaluationSettings,
    ExampleResult,
    SentenceResult,
    evaluate_example,
    overlapping_sources,
)
from at2.evaluation.report import markdown, plot, save
from at2.evaluation.run import evaluate
from at2.evaluation.summary import Estimate, Evaluation, MeanPasses, summarise

__all__ = [
    "Estimate",
    "Evaluation",
    "EvaluationExample",
    "EvaluationSettings",
    "ExampleResult",
    "MeanPasses",
    "SentenceResult",
    "evaluate",
    "evaluate_example",
    "markdown",
    "overlapping_sources",
    "plot",
    "save",
    "summarise",
]
