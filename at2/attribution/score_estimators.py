"""Estimators under the published package's names."""

from at2.estimator.linear import LinearScoreEstimator

__all__ = ["LinearScoreEstimator"]
