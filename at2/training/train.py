"""The third stage as a whole: which examples, what is on record, and what is left behind.

Needs the features and their manifest; not the model.
"""

import logging
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch

from at2.errors import TrainingError, check_count
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import LinearScoreEstimator
from at2.files import Place, exists, remove_leftovers
from at2.fingerprints import fingerprint
from at2.model.loading import default_device
from at2.training import record
from at2.training.compute import ComputeSettings
from at2.training.fit import Checkpoint, FitSettings, Loss, Report, fit
from at2.training.manifest import claim
from at2.training.run import Run
from at2.training.settings import environment, estimator_fingerprint

logger = logging.getLogger(__name__)

CHECKPOINT_EVERY = 100
"""Steps of training between two checkpoints."""

_OF_ANOTHER_TRAINING = ("metrics", "date", "library_version")


@dataclass(frozen=True)
class Options:
    """What `AT2Trainer.train` is asked for beside the settings of the fit; see there.

    Attributes:
        estimators: the folder of all estimators.
        start: the estimator to start from; None for weights of 1/n.
        train_indices: None for all.
        device: None for the model's, or what there is.
    """

    estimators: Place
    start: LinearScoreEstimator | None
    loss_fn: Loss
    train_indices: Iterable[int] | None
    held_out_indices: Iterable[int]
    device: str | torch.device | None
    print_every: int
    save_name: str | None
    memory_limit: int | None
    checkpoint_every: int
    extras: Mapping[str, Any]
    report: Report | None


def train(
    run: Run,
    extractor: AttentionFeatureExtractor | None,
    targets: ComputeSettings,
    settings: FitSettings,
    options: Options,
) -> LinearScoreEstimator:
    """Fit an estimator, or go on with it, or find it finished; see `AT2Trainer.train`.

    Args:
        extractor: of the features; None for that which the features on disk were made with.
        targets: how features were computed.
    """
    check_count(options.print_every, "print_every")
    if options.save_name is not None:
        record.check_name(options.save_name)

    held_out_examples = run.plan.check(options.held_out_indices, "held_out_indices")
    shards = range(run.plan.num_shards)
    all_examples = range(run.plan.num_examples)
    examples = all_examples if options.train_indices is None else options.train_indices
    examples = run.plan.check(examples, "train_indices")

    # 1. The features, and who is trained on: examples with targets.
    features, made_with = run.computed(extractor, targets)
    table = run.table(extractor, targets)
    left_out = set(held_out_examples)
    held_out = [index for index in held_out_examples if table.counts[index] > 0]
    train_on = [index for index in examples if table.counts[index] > 0 and index not in left_out]
    print(f"Training on {len(train_on)} examples of {len(table.counts)}")
    if not train_on:
        raise TrainingError("no example has a target to train on")

    # 2. Where it starts, and everything that the weights depend on.
    device = _device(run, options)
    extractor = extractor or AttentionFeatureExtractor.deserialize(made_with["features"])
    estimator = deepcopy(options.start) or LinearScoreEstimator(extractor)
    estimator = estimator.to(device, torch.float32)
    for name in _OF_ANOTHER_TRAINING:
        estimator.extras.pop(name, None)
    loss = getattr(options.loss_fn, "__name__", type(options.loss_fn).__name__)
    described = {
        **settings.to_dict(),
        "loss": loss,
        "features": features.settings,
        "examples": fingerprint({"shards": [run.examples_of(shard) for shard in shards]}),
        "train_indices": fingerprint({"indices": train_on}),
        "held_out_indices": fingerprint({"indices": held_out}),
        "start": estimator_fingerprint(estimator),
        "print_every": options.print_every,
        "extras": fingerprint(options.extras),
    }
    checkpoint = _claimed(options, described, device)
    if checkpoint is not None:
        finished = _finished(checkpoint)
        if finished is not None:
            print(f"Found estimator in {checkpoint.path.parent}")
            return finished.to(device)

    # 3. The fit, and its record.
    state = fit(
        estimator,
        table.gathered(device, options.memory_limit),
        train_on,
        settings,
        device=device,
        loss_fn=options.loss_fn,
        held_out=held_out,
        print_every=options.print_every,
        checkpoint=checkpoint,
        report=options.report,
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
            **settings.to_dict(),
        },
        **record.metrics(state),
        **options.extras,
    }
    if checkpoint is not None:
        record.save(estimator, state, checkpoint, described)
        print(f"Saved estimator to {checkpoint.path.parent}")
    return estimator


def _device(run: Run, options: Options) -> torch.device:
    if options.device is not None:
        return torch.device(options.device)
    model = run.settings.model
    return default_device() if model is None else torch.device(model.device)


def _claimed(
    options: Options, described: Mapping[str, Any], device: torch.device
) -> Checkpoint | None:
    """Where the fit is kept, if it has a name; the name is taken for it.

    Raises:
        TrainingError: the name was used with other settings.
    """
    if options.save_name is None:
        return None
    folder = options.estimators / options.save_name
    checkpoint = Checkpoint(
        folder / record.CHECKPOINT_FILE, fingerprint(described), options.checkpoint_every
    )
    name = f"estimator {options.save_name!r}"
    anew = not record.is_begun(folder)
    try:
        claim(folder, described, environment(device), name, anew=anew)
    except TrainingError as error:
        raise TrainingError(f"{error}; train it under another save_name") from error
    remove_leftovers(folder)
    return checkpoint


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
