"""What the results of each stage depend on, as plain values for its manifest."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
import transformers

from at2._version import __version__
from at2.capture import input_device
from at2.estimators import LinearScoreEstimator
from at2.identity import ModelIdentity
from at2.tasks import AttributionTask
from at2.training.manifest import fingerprint

_DIGITS = 16
_VALUES_OF_A_TENSOR = 64


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


def task_settings(task: AttributionTask) -> dict[str, Any]:
    """How examples become tasks, as far as one of them tells; its response is set to none."""
    task.set_generation_ids([])
    return {
        "task": type(task).__qualname__,
        "prompt": fingerprint({"ids": task.input_ids}),
        "source_type": getattr(task, "source_type", None),
        "sources": fingerprint({"ranges": task.source_token_ranges}),
    }


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them; what it has not, as text."""
    converted: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return converted
