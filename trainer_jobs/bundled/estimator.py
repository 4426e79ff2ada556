"""The bundled model's score estimator, trained by `AT2Trainer` on questions with training names."""

from pathlib import Path
from typing import Any

from at2 import AT2Trainer, LinearScoreEstimator
from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.questions import ask, task_of

_SEED = 7
_SENTENCES = (4, 40)
"""Up to twice what the model was trained on: heads that fail in long contexts must show it."""


def train_estimator(
    model: Any, tokenizer: Any, folder: Path, *, examples: int = 400, source_type: str = "token"
) -> LinearScoreEstimator:
    """Train an estimator; what `folder` already holds is not computed again.

    Its weights may not be negative: on this model, that loses nothing where sources are tokens, and
    gains where they are sentences (`docs/experiments.md`).
    """
    trainer = AT2Trainer(
        save_path=folder,
        dataset=list(ask(examples, seed=_SEED, sentences=_SENTENCES, names=NameSource())),
        model=model,
        tokenizer=tokenizer,
        task_from_example=lambda e, m, t: task_of(e, m, t, source_type),
    )
    trainer.generate(batch_size=16)
    trainer.compute_features_and_outputs()
    start = LinearScoreEstimator(trainer.feature_extractor, non_negative=True)
    return trainer.train(start, save_name="default")


def ship(estimator: LinearScoreEstimator, folder: Path, metrics: dict[str, Any]) -> None:
    """Write the estimator with its metrics, in both formats, and its card."""
    estimator.save_folder(folder, {"metrics": metrics})
