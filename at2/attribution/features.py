"""Features under the published package's names."""

from at2.estimator.features import AttentionFeatureExtractor

__all__ = ["AttentionFeatureExtractor"]
