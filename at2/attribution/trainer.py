"""The trainer under the published package's name."""

from at2.training.trainer import AT2Trainer

LinearScoreEstimatorTrainer = AT2Trainer

__all__ = ["LinearScoreEstimatorTrainer"]
