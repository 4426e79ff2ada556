"""Attributors under the published package's names."""

from at2.methods import AT2Attributor, Attributor

ScoreEstimationAttributor = AT2Attributor

__all__ = ["Attributor", "ScoreEstimationAttributor"]
