"""The second stage: attention features, and what ablations do to the targets' probabilities.

Ablations of examples that follow each other in a shard share forward passes, cut by a budget of
tokens; nothing else of one example meets another. Everything follows from the shard's examples and
the settings.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from at2.errors import InputError, check_count
from at2.estimator.features import AttentionFeatureExtractor
from at2.model.ablation import (
    Ablations,
    ablated_logit_probs_of_many,
    aggregate_logit_probs,
    default_token_budget,
    sample_masks,
)
from at2.ranges import TokenRange
from at2.seeds import TRAINING_SEEDS, check_seeds
from at2.tasks import AttributionTask
from at2.tasks.sources import check_target_split

KEEP_PROBABILITY = 0.5
"""The chance that an ablation keeps a source."""

NUM_MASKS = 32
"""Ablations per example."""

_MIN_MASKS = 2
"""Fewer have no correlation with anything."""

_PASSES = 8
"""Passes that consecutive examples fill together: enough to pad little, few enough to show how far
the work has come."""


@dataclass(frozen=True)
class ComputeSettings:
    """What is computed.

    Attributes:
        num_masks: ablations per example, drawn from `TRAINING_SEEDS`.
        keep_probability: the chance that one keeps a source.
        split_target_by: the unit whose probability is predicted: "sentence", "paragraph", "word",
            "token", or None for the whole response.
        token_budget: tokens in one forward pass of ablations; None for what suits the device.

    Raises:
        InputError: one is out of range.
    """

    num_masks: int = NUM_MASKS
    keep_probability: float = KEEP_PROBABILITY
    split_target_by: str | None = "sentence"
    token_budget: int | None = None

    def __post_init__(self) -> None:
        if self.num_masks < _MIN_MASKS:
            raise InputError(
                f"num_masks is {self.num_masks}, below {_MIN_MASKS}: training needs a correlation",
                param="num_masks",
            )
        check_seeds(TRAINING_SEEDS.start, self.num_masks, TRAINING_SEEDS, param="num_masks")
        check_target_split(self.split_target_by, "split_target_by")
        check_count(self.token_budget, "token_budget")


@dataclass(frozen=True)
class ExampleFeatures:
    """Features and outputs of one example.

    Attributes:
        features: float16 [targets, masks, features], Σ over sources of ±1 × source features, with
            +1 for a source that the mask keeps and -1 for one it removes.
        outputs: float32 [targets, masks], logit of the probability of each target.
    """

    features: Tensor
    outputs: Tensor


def compute(
    model: Any,
    tasks: Sequence[AttributionTask | None],
    extractor: AttentionFeatureExtractor,
    settings: ComputeSettings,
    done: Callable[[], None] = lambda: None,
) -> list[ExampleFeatures]:
    """Features and outputs of examples with responses.

    Args:
        model: the model of all tasks.
        tasks: None for an example that was skipped; it has no targets.
        done: called once for every example.
    """
    budget = settings.token_budget or default_token_budget(model)
    results = []
    for group in _groups(tasks, settings.num_masks, budget):
        results += _group(model, group, extractor, settings, budget)
        for _ in group:
            done()
    return results


def _groups(
    tasks: Sequence[AttributionTask | None], num_masks: int, budget: int
) -> Iterator[list[AttributionTask | None]]:
    """Examples that follow each other, together as many as fill `_PASSES` passes."""
    group: list[AttributionTask | None] = []
    tokens = 0
    for task in tasks:
        group.append(task)
        tokens += 0 if task is None else num_masks * len(task.token_ids)
        if tokens >= _PASSES * budget:
            yield group
            group, tokens = [], 0
    if group:
        yield group


def _group(
    model: Any,
    tasks: Sequence[AttributionTask | None],
    extractor: AttentionFeatureExtractor,
    settings: ComputeSettings,
    budget: int,
) -> list[ExampleFeatures]:
    """Examples whose ablations share passes."""
    with_targets: dict[int, tuple[AttributionTask, list[TokenRange], NDArray[np.bool_]]] = {}
    for place, task in enumerate(tasks):
        if task is None or task.num_sources == 0:
            continue
        targets = task.get_sub_target_token_ranges(split_by=settings.split_target_by)
        if targets:
            masks = sample_masks(
                settings.num_masks,
                task.num_sources,
                settings.keep_probability,
                seed=TRAINING_SEEDS.start,
            )
            with_targets[place] = task, targets, masks
    logit_probs = ablated_logit_probs_of_many(
        model,
        [Ablations(task.marked_tokens, masks) for task, _, masks in with_targets.values()],
        token_budget=budget,
    )
    by_place = {
        place: _example(task, targets, extractor, masks, measured)
        for (place, (task, targets, masks)), measured in zip(
            with_targets.items(), logit_probs, strict=True
        )
    }
    empty = empty_features(settings.num_masks, extractor.num_features)
    return [by_place.get(place, empty) for place in range(len(tasks))]


def _example(
    task: AttributionTask,
    targets: Sequence[TokenRange],
    extractor: AttentionFeatureExtractor,
    masks: NDArray[np.bool_],
    logit_probs: NDArray[np.floating[Any]],
) -> ExampleFeatures:
    signs = torch.from_numpy(masks).float() * 2 - 1  # [masks, sources]
    features = extractor(task, targets, signs)  # [targets, masks, features]
    first = task.target_token_range[0]
    outputs = np.stack(
        [aggregate_logit_probs(logit_probs[:, s - first : e - first]) for s, e in targets]
    )  # [targets, masks]
    return ExampleFeatures(
        features.to("cpu", torch.float16).contiguous(),
        torch.from_numpy(outputs.astype(np.float32)),
    )


def empty_features(num_masks: int, num_features: int) -> ExampleFeatures:
    """The features of an example without targets."""
    return ExampleFeatures(
        torch.zeros(0, num_masks, num_features, dtype=torch.float16), torch.zeros(0, num_masks)
    )


def to_bytes(examples: Sequence[ExampleFeatures], seal: str) -> bytes:
    """The contents of a shard's file: all rows of all examples, and how many each has."""
    tensors = {
        "features": torch.cat([example.features for example in examples]),
        "outputs": torch.cat([example.outputs for example in examples]),
        "targets": torch.tensor([len(example.outputs) for example in examples]),
    }
    content: bytes = safetensors_bytes(tensors, metadata={"at2": seal})
    return content
