"""Context attribution with attention (AT2): which parts of the context did the model use?

Order of reading: tasks → alignment → attention → estimators → attributors → trainer.
"""

from at2.attributors import AT2Attributor, Attributor, AverageAttentionAttributor
from at2.estimators import LinearScoreEstimator, load_estimator
from at2.features import AttentionFeatureExtractor
from at2.trainer import AT2Trainer

AT2FeatureExtractor = AttentionFeatureExtractor
AT2ScoreEstimator = LinearScoreEstimator

__version__ = "0.1.0"

__all__ = [
    "AT2Attributor",
    "AT2FeatureExtractor",
    "AT2ScoreEstimator",
    "AT2Trainer",
    "AttentionFeatureExtractor",
    "Attributor",
    "AverageAttentionAttributor",
    "LinearScoreEstimator",
    "__version__",
    "load_estimator",
]
