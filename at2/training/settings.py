"""What the results of each stage depend on, as plain values for its manifest.

How examples become tasks is code, which has no fingerprint: what the first task looks like stands
for it, and every response carries the fingerprint of its own prompt.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import transformers

from at2._version import __version__
from at2.errors import InputError, TrainingError
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.identity import ModelIdentity, dataset_fingerprint
from at2.estimator.linear import LinearScoreEstimator
from at2.model.ablation import default_token_budget
from at2.model.capture import input_device
from at2.tasks import AttributionTask
from at2.training.compute import ComputeSettings
from at2.training.manifest import fingerprint

_DIGITS = 16
_VALUES_OF_A_TENSOR = 64


class ExampleDataset(Protocol):
    """Anything with a length and examples by index: a list, or a `datasets.Dataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def weights_fingerprint(model: Any) -> str:
    """Digits that tell two sets of weights apart, from a few values of each tensor.

    Weights that are not in memory (offloaded ones) do not count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta and tensor.numel():
            step = max(1, tensor.numel() // _VALUES_OF_A_TENSOR)
            values = tensor.detach().reshape(-1)[::step].contiguous().cpu()
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]


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
    """Other digits for any other weights or rules for them."""
    return fingerprint(
        {
            "weights": {name: value.tolist() for name, value in estimator.state_dict().items()},
            "normalize": estimator.normalize,
            "non_negative": estimator.non_negative,
        }
    )


def environment(model: Any) -> dict[str, str]:
    """What may change the last digits of results: versions, device, threads."""
    device = input_device(model)
    on_gpu = device.type == "cuda"
    return {
        "at2": __version__,
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        **({} if on_gpu else {"threads": str(torch.get_num_threads())}),
    }


@dataclass(frozen=True)
class RunSettings:
    """What a run's results depend on; what takes time is computed once.

    Attributes:
        model, tokenizer: what the estimator is for.
        dataset: the examples.
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
    def dataset_fingerprint(self) -> str:
        """See `at2.estimator.identity.dataset_fingerprint`."""
        return dataset_fingerprint(self.dataset[index] for index in range(len(self.dataset)))

    @cached_property
    def _common(self) -> dict[str, Any]:
        return {
            "examples": len(self.dataset),
            "dataset": self.dataset_fingerprint,
            "shard_size": self.shard_size,
            "model": model_settings(self.model, self.tokenizer),
        }

    @cached_property
    def _first_task(self) -> dict[str, Any]:
        """What the first example that can be used tells about how tasks are made.

        Raises:
            InputError: none can be used, or one cannot and is not to be skipped.
        """
        problem: InputError | None = None
        for index in range(len(self.dataset)):
            try:
                task = self.new_task(index)
                task.set_generation_ids([])
                return {
                    "task": type(task).__qualname__,
                    "prompt": fingerprint({"ids": task.input_ids}),
                    "generate": plain(task.generate_kwargs),
                    "source_type": getattr(task, "source_type", None),
                    "sources": fingerprint({"ranges": task.source_token_ranges}),
                }
            except InputError as error:
                problem = InputError(f"example {index}: {error}", param=error.param)
                if not self.skip:
                    break
        raise problem or TrainingError("the dataset has no examples")

    def _of_first_task(self, *keys: str) -> dict[str, Any]:
        return {key: self._first_task[key] for key in keys}

    def of_responses(self, batch_size: int) -> dict[str, Any]:
        """What the first stage's files depend on.

        Args:
            batch_size: prompts that are generated for at once.

        Raises:
            InputError: no example can be used, or one cannot and is not to be skipped.
        """
        task = self._of_first_task("task", "prompt", "generate")
        return {**self._common, **task, "batch_size": batch_size, "skip": self.skip}

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
            "features": plain(extractor.serialize()),
            "num_masks": settings.num_masks,
            "keep_probability": settings.keep_probability,
            "split_target_by": settings.split_target_by,
            "token_budget": settings.token_budget or default_token_budget(self.model),
            "responses": responses,
        }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them; what it has not, as text."""
    converted: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return converted
