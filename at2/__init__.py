"""Context attribution with attention (AT2): which parts of the context did the model use?

Order of reading: text → model → tasks → estimator → methods → training → evaluation; display.
"""

from at2._version import __version__
from at2.attribute import attribute
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.methods import (
    AT2Attributor,
    Attributor,
    AverageAttentionAttributor,
    ContextCiteAttributor,
    ContrastiveAttentionAttributor,
    FusionAttributor,
    GradientNormAttributor,
    InputTimesGradientAttributor,
    LeaveOneOutAttributor,
)
from at2.result import AttributionResult
from at2.training.trainer import AT2Trainer

AT2FeatureExtractor = AttentionFeatureExtractor
AT2ScoreEstimator = LinearScoreEstimator

__all__ = [
    "AT2Attributor",
    "AT2FeatureExtractor",
    "AT2ScoreEstimator",
    "AT2Trainer",
    "AttentionFeatureExtractor",
    "AttributionResult",
    "Attributor",
    "AverageAttentionAttributor",
    "ContextCiteAttributor",
    "ContrastiveAttentionAttributor",
    "FusionAttributor",
    "GradientNormAttributor",
    "InputTimesGradientAttributor",
    "LeaveOneOutAttributor",
    "LinearScoreEstimator",
    "__version__",
    "attribute",
    "load_estimator",
]
