"""The published package's import paths of attribution; everything is defined elsewhere.

`at2.attribution.X` and `at2.attribution.<module>.X` are what the published package has there, as
far as it exists here: docs/library.md says what does not.
"""

from at2.attribution.attributors import ScoreEstimationAttributor
from at2.attribution.features import AttentionFeatureExtractor
from at2.attribution.score_estimators import LinearScoreEstimator
from at2.attribution.trainer import LinearScoreEstimatorTrainer

AT2Attributor = ScoreEstimationAttributor
AT2FeatureExtractor = AttentionFeatureExtractor
AT2ScoreEstimator = LinearScoreEstimator
AT2Trainer = LinearScoreEstimatorTrainer

__all__ = [
    "AT2Attributor",
    "AT2FeatureExtractor",
    "AT2ScoreEstimator",
    "AT2Trainer",
    "AttentionFeatureExtractor",
    "LinearScoreEstimator",
    "LinearScoreEstimatorTrainer",
    "ScoreEstimationAttributor",
]
