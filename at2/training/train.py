"""The third stage as a whole: which examples, what is on record, and what is left behind.

Needs the features and their manifest; not the model.
"""

import logging
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch

from at2.errors import InputError, TrainingError, check_count
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import LinearScoreEstimator
from at2.files import Place, exists, remove_leftovers
from at2.fingerprints import fingerprint
from at2.training import record
from at2.training.compute import ComputeSettings
from at2.training.fit import Checkpoint, FitSettings, Loss, Report, fit
from at2.training.manifest import claim, differences
from at2.training.run import Run
from at2.training.settings import environment, estimator_fingerprint

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = 100
"""Steps of training between two checkpoints."""

_OF_ANOTHER_TRAINING = ("metrics", "date", "library_version")


def train(
    run: Run,
    extractor: AttentionFeatureExtractor | None,
    targets: ComputeSettings,
    settings: FitSettings,
    *,
    estimators: Place,
    start: LinearScoreEstimator | None,
    loss_fn: Loss,
    train_indices: Iterable[int] | None,
    held_out_indices: Iterable[int],
    device: torch.device,
    print_every: int,
    save_name: str | None,
    replace: bool,
    memory_limit: int | None,
    checkpoint_every: int,
    extras: Mapping[str, Any],
    report: Report | None,
) -> LinearScoreEstimator:
    """Fit an estimator, or go on with it, or find it finished; see `AT2Trainer.train`.

    Args:
        extractor: of the features; None for that which the features on disk were made with.
        targets: how features were computed.
        settings: of the fit.
        estimators: the folder of all estimators.
        start: the estimator to start from; None for weights of 1/n.
        train_indices: None for all.
        replace: take a name that was used with other settings.

    Raises:
        InputError: an argument is out of range, or `start` is for other features.
        TrainingError: see `AT2Trainer.train`.
    """
    check_count(print_every, "print_every")
    if save_name is not None:
        record.check_name(save_name)

    held_out_examples = run.plan.check(held_out_indices, "held_out_indices")
    shards = range(run.plan.num_shards)
    all_examples = range(run.plan.num_examples)
    examples = all_examples if train_indices is None else train_indices
    examples = run.plan.check(examples, "train_indices")

    # 1. The features, and who is trained on: examples with targets.
    features, made_with = run.computed(extractor, targets)
    extractor = extractor or AttentionFeatureExtractor.deserialize(made_with["features"])
    if start is not None:
        _check_features(start.feature_extractor, extractor)
    table = run.table(extractor, targets)
    left_out = set(held_out_examples)
    held_out = [index for index in held_out_examples if table.counts[index] > 0]
    train_on = [index for index in examples if table.counts[index] > 0 and index not in left_out]
    print(f"Training on {len(train_on)} examples of {len(table.counts)}")
    if not train_on:
        raise TrainingError("no example has a target to train on")

    # 2. Where it starts, and everything that the weights depend on.
    estimator = deepcopy(start) or LinearScoreEstimator(extractor)
    estimator = estimator.to(device, torch.float32)
    for name in _OF_ANOTHER_TRAINING:
        estimator.extras.pop(name, None)
    loss = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    described = {
        **asdict(settings),
        "loss": loss,
        "features": features.settings,
        "examples": fingerprint({"shards": [run.examples_of(shard) for shard in shards]}),
        "train_indices": fingerprint({"indices": train_on}),
        "held_out_indices": fingerprint({"indices": held_out}),
        "start": estimator_fingerprint(estimator),
        "print_every": print_every,
        "extras": fingerprint(extras),
    }
    checkpoint = None
    if save_name is not None:
        digest, folder = fingerprint(described), estimators / save_name
        checkpoint = Checkpoint(folder / record.CHECKPOINT_FILE, digest, checkpoint_every)
        _claim(folder, described, device, replace=replace)
        finished = _finished(checkpoint)
        if finished is not None:
            print(f"Found estimator in {checkpoint.path.parent}")
            return finished.to(device)

    # 3. The fit, and its record.
    state = fit(
        estimator,
        table.gathered(device, memory_limit),
        train_on,
        settings,
        device=device,
        loss_fn=loss_fn,
        held_out=held_out,
        print_every=print_every,
        checkpoint=checkpoint,
        report=report,
    )
    identity = {name: made_with["model"][name] for name in ModelIdentity.__dataclass_fields__}
    estimator.extras |= {
        "identity": identity,
        "dataset": run.dataset,
        "training": {
            "examples": len(train_on),
            "num_masks": targets.num_masks,
            "split_target_by": targets.split_target_by,
            "loss": loss,
            **asdict(settings),
        },
        **record.metrics(state),
        **extras,
    }
    if checkpoint is not None:
        record.save(estimator, state, checkpoint, described)
        print(f"Saved estimator to {checkpoint.path.parent}")
    return estimator


def _check_features(
    started: AttentionFeatureExtractor, computed: AttentionFeatureExtractor
) -> None:
    """Raises: InputError: an estimator to start from is for other features than those on disk."""
    names = ("num_layers", "num_heads", "exponents", "contrast")
    theirs, ours = ({name: getattr(one, name) for name in names} for one in (started, computed))
    different = differences(ours, theirs)
    if different:
        raise InputError(
            f"score_estimator is for other features: {different} when they were computed",
            param="score_estimator",
        )


def _claim(
    folder: Place, described: Mapping[str, Any], device: torch.device, *, replace: bool
) -> None:
    """Take the folder of an estimator for a fit.

    Raises:
        TrainingError: its name was used with other settings, and is not to be replaced.
    """
    name, anew = f"estimator {folder.name!r}", not record.is_begun(folder)
    try:
        claim(folder, described, environment(device), name, anew=anew)
    except TrainingError as error:
        if not replace:
            raise TrainingError(f"{error}; train it under another save_name") from error
        record.forget(folder)
        claim(folder, described, environment(device), name, anew=True)
    remove_leftovers(folder)


def _finished(checkpoint: Checkpoint) -> LinearScoreEstimator | None:
    """The estimator that a fit left where its checkpoint was, if it is there and whole."""
    folder = checkpoint.path.parent
    if not exists(folder / record.RECORD_FILE):
        return None
    try:
        record.read(folder, checkpoint.settings)
    except TrainingError as error:
        logger.warning("%s: training it again", error)
        return None
    return LinearScoreEstimator.load(folder)
