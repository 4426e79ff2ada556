"""The attribution methods by name: how each is made, what it needs, and what it costs.

What offers a choice of methods, a server or an evaluation, takes them from here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from at2.errors import InputError
from at2.estimator.linear import LinearScoreEstimator
from at2.methods.at2 import AT2Attributor
from at2.methods.average_attention import AverageAttentionAttributor, average_weighing
from at2.methods.base import Attributor
from at2.methods.context_cite import NUM_ABLATIONS, ContextCiteAttributor
from at2.methods.contrastive_attention import ContrastiveAttentionAttributor
from at2.methods.controls import (
    LexicalOverlapAttributor,
    PositionAttributor,
    RandomAttributor,
)
from at2.methods.fusion import FusionAttributor
from at2.methods.gradients import GradientNormAttributor, InputTimesGradientAttributor
from at2.methods.leave_one_out import LeaveOneOutAttributor
from at2.model.weighing import Weighing
from at2.tasks import AttributionTask


@dataclass(frozen=True)
class Passes:
    """Passes over the model, each as long as prompt and response at most.

    Attributes:
        forward: forward passes for a response, whatever the number of its spans. Ablations that
            come up more than once run once, so this is the most.
        forward_per_span, backward_per_span: further passes for each span.
    """

    forward: int = 0
    forward_per_span: int = 0
    backward_per_span: int = 0


@dataclass(frozen=True)
class AttributionMethod:
    """A way to attribute.

    Attributes:
        name: what it is called in requests and tables.
        description: one line for people who choose.
        factory: makes the attributor of a task; the estimator is None where none is needed.
        passes: what it costs, given the number of sources.
        needs_estimator: whether it needs a trained score estimator.
        weighing: what the scores are as weights of attention, given the model and the estimator;
            None for a method that is something else.
    """

    name: str
    description: str
    factory: Callable[[AttributionTask, LinearScoreEstimator | None], Attributor]
    passes: Callable[[int], Passes]
    needs_estimator: bool = False
    weighing: Callable[[Any, LinearScoreEstimator | None], Weighing] | None = None

    def build(
        self, task: AttributionTask, estimator: LinearScoreEstimator | None = None
    ) -> Attributor:
        """Apply the method to a task.

        Raises:
            InputError: the method needs an estimator and none is given.
            EstimatorMismatchError: the estimator was trained for another model.
        """
        return self.factory(task, estimator)


def at2_method(estimator: LinearScoreEstimator, name: str) -> AttributionMethod:
    """AT2 with an estimator of its own, under another name: to compare several."""
    return AttributionMethod(
        name,
        METHODS["at2"].description,
        lambda task, _: AT2Attributor(task, estimator),
        METHODS["at2"].passes,
    )


def context_cite_method(num_ablations: int, name: str | None = None) -> AttributionMethod:
    """ContextCite with a number of ablations, by default named `context_cite_<number>`."""
    return AttributionMethod(
        name or f"context_cite_{num_ablations}",
        f"sparse linear model fitted to {num_ablations} random ablations (ContextCite)",
        lambda task, _: ContextCiteAttributor(task, num_ablations),
        lambda _: Passes(forward=num_ablations),
    )


def method_named(name: str) -> AttributionMethod:
    """A method of `METHODS`, or `context_cite_<number>` with that number of ablations.

    Raises:
        InputError: there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    numbered = re.fullmatch(r"context_cite_([1-9][0-9]{0,5})", name)
    if numbered is None:
        raise InputError(
            f"no method {name[:64]!r}; there are: {', '.join(METHODS)}", param="method"
        )
    return context_cite_method(int(numbered[1]))


def _needed(estimator: LinearScoreEstimator | None, method: str = "at2") -> LinearScoreEstimator:
    if estimator is None:
        raise InputError(f"method {method} needs an estimator", param="estimator")
    return estimator


def _at2(task: AttributionTask, estimator: LinearScoreEstimator | None) -> Attributor:
    return AT2Attributor(task, _needed(estimator))


def _fusion(task: AttributionTask, estimator: LinearScoreEstimator | None) -> Attributor:
    return FusionAttributor(AT2Attributor(task, _needed(estimator, "fusion")))


def _plain(
    kind: Callable[[AttributionTask], Attributor],
    task: AttributionTask,
    _: LinearScoreEstimator | None,
) -> Attributor:
    return kind(task)


_ONE_PASS = Passes(forward=1)
_PASSES_PER_SPAN = Passes(forward_per_span=1, backward_per_span=1)
_NO_PASS = Passes()

METHODS: Mapping[str, AttributionMethod] = MappingProxyType(
    {
        method.name: method
        for method in (
            AttributionMethod(
                "at2",
                "attention weighted by a trained score estimator",
                _at2,
                lambda _: _ONE_PASS,
                needs_estimator=True,
                weighing=lambda _, estimator: _needed(estimator).weighing,
            ),
            AttributionMethod(
                "average_attention",
                "attention averaged over all layers and heads",
                partial(_plain, AverageAttentionAttributor),
                lambda _: _ONE_PASS,
                weighing=lambda model, _: average_weighing(model),
            ),
            AttributionMethod(
                "contrastive_attention",
                "attention averaged over all layers and heads, less that of the query",
                partial(_plain, ContrastiveAttentionAttributor),
                lambda _: _ONE_PASS,
                weighing=lambda model, _: average_weighing(model, contrast=True),
            ),
            AttributionMethod(
                "fusion",
                "shares of at2 and of shared words, and of a retriever's scores, in one",
                _fusion,
                lambda _: _ONE_PASS,
                needs_estimator=True,
            ),
            AttributionMethod(
                "leave_one_out",
                "drop in log-probability when one source is hidden",
                partial(_plain, LeaveOneOutAttributor),
                lambda num_sources: Passes(forward=num_sources + 1),
            ),
            context_cite_method(NUM_ABLATIONS, "context_cite"),
            AttributionMethod(
                "gradient_norm",
                "length of the log-probability's gradient",
                partial(_plain, GradientNormAttributor),
                lambda _: _PASSES_PER_SPAN,
            ),
            AttributionMethod(
                "input_x_gradient",
                "embedding times the log-probability's gradient",
                partial(_plain, InputTimesGradientAttributor),
                lambda _: _PASSES_PER_SPAN,
            ),
            AttributionMethod(
                "random",
                "control: random scores",
                partial(_plain, RandomAttributor),
                lambda _: _NO_PASS,
            ),
            AttributionMethod(
                "position",
                "control: later sources first",
                partial(_plain, PositionAttributor),
                lambda _: _NO_PASS,
            ),
            AttributionMethod(
                "lexical_overlap",
                "control: words shared with the span",
                partial(_plain, LexicalOverlapAttributor),
                lambda _: _NO_PASS,
            ),
        )
    }
)
"""Every method by name, in the order in which tables list them."""
