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
from at2.methods.gradients import (
    GradientNormAttributor,
    InputTimesGradientAttributor,
    VisibilityGradientAttributor,
)
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


_NO_PASS = Passes()
_ONE_PASS = Passes(forward=1)
_PASSES_PER_SPAN = Passes(forward_per_span=1, backward_per_span=1)


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


def _without_estimator(
    name: str,
    description: str,
    kind: Callable[[AttributionTask], Attributor],
    passes: Passes = _NO_PASS,
    weighing: Callable[[Any], Weighing] | None = None,
) -> AttributionMethod:
    return AttributionMethod(
        name,
        description,
        lambda task, _: kind(task),
        lambda _: passes,
        weighing=None if weighing is None else lambda model, _: weighing(model),
    )


METHODS: Mapping[str, AttributionMethod] = MappingProxyType(
    {
        method.name: method
        for method in (
            AttributionMethod(
                "at2",
                "attention weighted by a trained score estimator",
                lambda task, estimator: AT2Attributor(task, _needed(estimator)),
                lambda _: _ONE_PASS,
                needs_estimator=True,
                weighing=lambda _, estimator: _needed(estimator).weighing,
            ),
            _without_estimator(
                "average_attention",
                "attention averaged over all layers and heads",
                AverageAttentionAttributor,
                _ONE_PASS,
                average_weighing,
            ),
            _without_estimator(
                "contrastive_attention",
                "attention averaged over all layers and heads, less that of the query",
                ContrastiveAttentionAttributor,
                _ONE_PASS,
                partial(average_weighing, contrast=True),
            ),
            AttributionMethod(
                "fusion",
                "shares of at2 and of shared words, and of a retriever's scores, in one",
                lambda task, estimator: FusionAttributor(
                    AT2Attributor(task, _needed(estimator, "fusion"))
                ),
                lambda _: _ONE_PASS,
                needs_estimator=True,
            ),
            AttributionMethod(
                "leave_one_out",
                "drop in log-probability when one source is hidden",
                lambda task, _: LeaveOneOutAttributor(task),
                lambda num_sources: Passes(forward=num_sources + 1),
            ),
            context_cite_method(NUM_ABLATIONS, "context_cite"),
            _without_estimator(
                "visibility_gradient",
                "slope of the log-probability in how much of a source is seen",
                VisibilityGradientAttributor,
                _PASSES_PER_SPAN,
            ),
            _without_estimator(
                "gradient_norm",
                "length of the log-probability's gradient",
                GradientNormAttributor,
                _PASSES_PER_SPAN,
            ),
            _without_estimator(
                "input_x_gradient",
                "embedding times the log-probability's gradient",
                InputTimesGradientAttributor,
                _PASSES_PER_SPAN,
            ),
            _without_estimator("random", "control: random scores", RandomAttributor),
            _without_estimator("position", "control: later sources first", PositionAttributor),
            _without_estimator(
                "lexical_overlap", "control: words shared with the span", LexicalOverlapAttributor
            ),
        )
    }
)
"""Every method by name, in the order in which tables list them."""
