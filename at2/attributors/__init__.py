"""Attribution methods behind one interface: for a span of the response, each source's score."""

from at2.attributors.attention import AverageAttentionAttributor
from at2.attributors.base import Attribution, Attributor, RankedSource
from at2.attributors.estimator import AT2Attributor

__all__ = [
    "AT2Attributor",
    "Attribution",
    "Attributor",
    "AverageAttentionAttributor",
    "RankedSource",
]
