"""An estimator from a dozen prompts of one's own, in minutes, for a model that has none.

The same three stages as a full training, with settings that suit few examples: sources are
sentences, so that an ablation removes what people ask about, and weights stay at or above zero,
which keeps some hundreds of weights from fitting the noise of a few dozen responses.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from at2.errors import InputError
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.linear import LinearScoreEstimator
from at2.tasks import DEFAULT_GENERATE_KWARGS, AttributionTask, SimpleContextAttributionTask
from at2.training.heldout import HeldOut, measure
from at2.training.trainer import AT2Trainer

MIN_PROMPTS = 4
"""Fewer leave nothing to check the estimator on."""

NUM_MASKS = 24
"""Ablations per prompt."""

MAX_NEW_TOKENS = 64
"""The most tokens of a response."""

_NAME = "calibrated"
_HELD_OUT_SHARE = 4


@dataclass(frozen=True)
class Calibration:
    """A calibrated estimator, and how it does on prompts that it was not fitted to.

    Attributes:
        estimator: fitted to all prompts.
        folder: where it is saved.
        held_out: how one that was fitted without the last quarter of the prompts predicts their
            ablations.
        average_attention: the same of average attention.
    """

    estimator: LinearScoreEstimator
    folder: Path
    held_out: HeldOut
    average_attention: HeldOut


def check_prompts(prompts: Sequence[Mapping[str, str]]) -> None:
    """Make sure that there are enough prompts.

    Raises:
        InputError: there are fewer than `MIN_PROMPTS`.
    """
    if len(prompts) < MIN_PROMPTS:
        raise InputError(
            f"{len(prompts)} prompts are too few to calibrate on: give at least {MIN_PROMPTS}, "
            "better a dozen",
            param="prompts",
        )


def calibrate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Mapping[str, str]],
    save_path: str | Path,
    *,
    num_masks: int = NUM_MASKS,
    max_new_tokens: int = MAX_NEW_TOKENS,
    source_type: str = "sentence",
) -> Calibration:
    """Train an estimator for a model on a few prompts.

    What is finished is on disk, so a call that was stopped goes on where it was, and one with more
    prompts from what is there; its estimator takes the place of the one before.

    Args:
        model, tokenizer: the model to train for.
        prompts: a dozen or more, each with a `context` and a `query`.
        save_path: folder of everything; the estimator is `estimators/calibrated` in it.
        num_masks: ablations per prompt.
        max_new_tokens: the most tokens of a response.
        source_type: what is ablated.

    Raises:
        InputError: there are fewer than `MIN_PROMPTS` prompts, or one cannot be used.
        TrainingError: no response has a sentence, or the folder was made with other settings.
    """
    check_prompts(prompts)
    generate_kwargs = {**DEFAULT_GENERATE_KWARGS, "max_new_tokens": max_new_tokens}

    def task(prompt: Mapping[str, str], model: Any, tokenizer: Any) -> AttributionTask:
        return SimpleContextAttributionTask(
            prompt["context"],
            prompt["query"],
            model,
            tokenizer,
            generate_kwargs,
            source_type=source_type,
        )

    extractor = AttentionFeatureExtractor.from_model(model)
    trainer = AT2Trainer(
        save_path, prompts, model, tokenizer, task, extractor, num_masks=num_masks, shard_size=1
    )
    trainer.generate(batch_size=1)
    trainer.compute_features_and_outputs()
    table = trainer.load_table()
    usable = [index for index, count in enumerate(table.counts) if count > 0]
    held_out = usable[-max(1, len(usable) // _HELD_OUT_SHARE) :]
    start = LinearScoreEstimator(extractor, non_negative=True)
    checked = trainer.train(start, held_out_indices=held_out, print_every=1_000)
    measured = measure(checked, table, held_out, checked.linear.weight.device)
    average = measure(start.to(checked.linear.weight.device), table, held_out, model.device)
    metrics = {"held_out": measured.to_dict(), "average_attention": average.to_dict()}
    estimator = trainer.train(
        start, print_every=1_000, save_name=_NAME, replace=True, extras={"calibration": metrics}
    )
    folder = Path(save_path) / "estimators" / _NAME
    return Calibration(estimator, folder, measured, average)
