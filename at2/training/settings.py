"""What the results of each stage depend on, as plain values for its manifest.

How examples become tasks is code, which has no fingerprint: what the first task looks like stands
for it, and every response carries the fingerprint of its own prompt.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import transformers

from at2._version import __version__
from at2.errors import InputError, ModelError, NothingToUseError
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.identity import ModelIdentity
from at2.estimator.linear import LinearScoreEstimator
from at2.fingerprints import fingerprint, weights_fingerprint
from at2.model.attention import attention_shape
from at2.tasks import AttributionTask
from at2.training.compute import ComputeSettings


class ExampleDataset(Protocol):
    """Anything with a length and examples by index: a list, or a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def model_settings(model: Any, tokenizer: Any) -> dict[str, Any]:
    """Which model it is, and how its numbers are computed."""
    quantization = getattr(model.config, "quantization_config", None)
    return {
        **ModelIdentity.of(model, tokenizer).to_dict(),
        "weights": weights_fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": None if quantization is None else str(quantization),
    }


def estimator_fingerprint(estimator: LinearScoreEstimator) -> str:
    """A fingerprint that changes with the weights or the rules for them."""
    return fingerprint(
        {
            "weights": {name: value.tolist() for name, value in estimator.state_dict().items()},
            "normalize": estimator.normalize,
            "non_negative": estimator.non_negative,
        }
    )


def environment(device: torch.device, **more: Any) -> dict[str, str]:
    """What may change the last digits of results: versions, device, threads.

    Args:
        device: what computes.
        more: batch sizes and the like.
    """
    on_gpu = device.type == "cuda"
    return {
        "at2": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        **({} if on_gpu else {"threads": str(torch.get_num_threads())}),
        **{name: str(value) for name, value in more.items()},
    }


@dataclass(frozen=True)
class RunSettings:
    """What a run's results depend on, apart from the examples; what takes time is computed once.

    Attributes:
        model, tokenizer: what the estimator is for.
        dataset: the examples, of which the first that can be used is looked at.
        shard_size: examples a shard.
        skip: whether examples that cannot be used are passed over.
        new_task: makes the task of an example, by its number.
    """

    model: Any
    tokenizer: Any
    dataset: ExampleDataset
    shard_size: int
    skip: bool
    new_task: Callable[[int], AttributionTask]

    @cached_property
    def _common(self) -> dict[str, Any]:
        if self.model is None:
            raise ModelError("this needs the model, and the trainer was given none")
        return {
            "shard_size": self.shard_size,
            "model": model_settings(self.model, self.tokenizer),
        }

    @cached_property
    def _first_task(self) -> dict[str, Any]:
        """What the first example that can be used tells about how tasks are made.

        Raises:
            NothingToUseError: none can be used, and they are to be skipped.
            InputError: one cannot, and is not to be skipped.
        """
        reasons = {}
        for index in range(len(self.dataset)):
            try:
                task = self.new_task(index)
                task.set_generation_ids([])
                return {
                    "task": type(task).__qualname__,
                    "prompt": fingerprint({"ids": task.input_ids}),
                    "generate": json_values(task.generate_kwargs),
                    "source_type": getattr(task, "source_type", None),
                    "sources": fingerprint({"ranges": task.source_token_ranges}),
                }
            except InputError as error:
                if not self.skip:
                    raise InputError(f"example {index}: {error}", param=error.param) from error
                reasons[f"example {index}"] = str(error)
        raise NothingToUseError("no example can be used", reasons)

    def _of_first_task(self, *keys: str) -> dict[str, Any]:
        return {key: self._first_task[key] for key in keys}

    def of_responses(self) -> dict[str, Any]:
        """What the first stage's files depend on.

        Raises:
            InputError: no example can be used, or one cannot and is not to be skipped.
        """
        return {**self._common, **self._of_first_task("task", "prompt", "generate")}

    def of_features(
        self, extractor: AttentionFeatureExtractor, settings: ComputeSettings, responses: str
    ) -> dict[str, Any]:
        """What the second stage's files depend on.

        Args:
            responses: fingerprint of the settings that the responses were made with.

        Raises:
            InputError: see `of_responses`.
        """
        return {
            **self._common,
            **self._of_first_task("task", "prompt", "source_type", "sources"),
            **of_targets(settings),
            "features": json_values(extractor.serialize()),
            "responses": responses,
        }


def of_targets(settings: ComputeSettings) -> dict[str, Any]:
    """What the second stage's files depend on and no model is needed to know."""
    return {
        "num_masks": settings.num_masks,
        "keep_probability": settings.keep_probability,
        "split_target_by": settings.split_target_by,
    }


def json_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them; what it does not have becomes text."""
    converted: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return converted


def checked_extractor(
    extractor: AttentionFeatureExtractor | None, model: Any
) -> AttentionFeatureExtractor | None:
    """The feature extractor, by default one for the model if there is one.

    Raises:
        InputError: it is for a model of another shape.
    """
    if model is None:
        return extractor
    if extractor is None:
        return AttentionFeatureExtractor.from_model(model)
    shape = attention_shape(model)
    if (extractor.num_layers, extractor.num_heads) != (shape.num_layers, shape.num_heads):
        raise InputError(
            f"the feature extractor is for {extractor.num_layers} layers × {extractor.num_heads} "
            f"heads, but {type(model).__name__} has {shape.num_layers} layers × "
            f"{shape.num_heads} heads",
            param="feature_extractor",
        )
    return extractor
