"""Attribution methods behind one interface: for a span of the response, each source's score."""

from at2.attributors.attention import AverageAttentionAttributor
from at2.attributors.base import Attribution, Attributor, RankedSource, TokenScoreAttributor
from at2.attributors.context_cite import ContextCiteAttributor
from at2.attributors.controls import (
    LexicalOverlapAttributor,
    PositionAttributor,
    RandomAttributor,
)
from at2.attributors.estimator import AT2Attributor
from at2.attributors.gradient import GradientNormAttributor, InputTimesGradientAttributor
from at2.attributors.leave_one_out import LeaveOneOutAttributor
from at2.attributors.methods import (
    METHODS,
    AttributionMethod,
    Passes,
    at2_method,
    context_cite_method,
    method_named,
)

__all__ = [
    "METHODS",
    "AT2Attributor",
    "Attribution",
    "AttributionMethod",
    "Attributor",
    "AverageAttentionAttributor",
    "ContextCiteAttributor",
    "GradientNormAttributor",
    "InputTimesGradientAttributor",
    "LeaveOneOutAttributor",
    "LexicalOverlapAttributor",
    "Passes",
    "PositionAttributor",
    "RandomAttributor",
    "RankedSource",
    "TokenScoreAttributor",
    "at2_method",
    "context_cite_method",
    "method_named",
]
