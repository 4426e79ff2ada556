"""Attribution methods behind one interface: for a span of the response, each source's score."""

from at2.methods.at2 import AT2Attributor
from at2.methods.average_attention import AverageAttentionAttributor
from at2.methods.base import Attribution, Attributor, RankedSource, TokenScoreAttributor
from at2.methods.citing import DEFAULT_MIN_SHARE, cited
from at2.methods.context_cite import ContextCiteAttributor
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
from at2.methods.hops import MAX_HOPS, HopsAttributor, check_hops
from at2.methods.leave_one_out import LeaveOneOutAttributor
from at2.methods.registry import (
    METHODS,
    AttributionMethod,
    Passes,
    at2_method,
    context_cite_method,
    method_named,
)
from at2.methods.weighted_attention import WeightedAttentionAttributor

__all__ = [
    "DEFAULT_MIN_SHARE",
    "MAX_HOPS",
    "METHODS",
    "AT2Attributor",
    "Attribution",
    "AttributionMethod",
    "Attributor",
    "AverageAttentionAttributor",
    "ContextCiteAttributor",
    "ContrastiveAttentionAttributor",
    "FusionAttributor",
    "GradientNormAttributor",
    "HopsAttributor",
    "InputTimesGradientAttributor",
    "LeaveOneOutAttributor",
    "LexicalOverlapAttributor",
    "Passes",
    "PositionAttributor",
    "RandomAttributor",
    "RankedSource",
    "TokenScoreAttributor",
    "VisibilityGradientAttributor",
    "WeightedAttentionAttributor",
    "at2_method",
    "check_hops",
    "cited",
    "context_cite_method",
    "method_named",
]
