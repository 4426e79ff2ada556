"""Fingerprints: short digits that change with any change in what they stand for.

Values are told apart by their JSON with sorted keys, so the order of keys does not matter.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from typing import Any

import torch

from at2.errors import InputError

DIGITS = 16
"""Hexadecimal digits of a fingerprint."""

_VALUES_OF_A_TENSOR = 64


def canonical(value: Any) -> str:
    """One text for one plain value; unlike `==`, it tells 1 from True."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def fingerprint(value: Any) -> str:
    """The fingerprint of a plain value."""
    return checksum(canonical(value).encode("utf-8", "surrogatepass"))[:DIGITS]


def checksum(content: bytes) -> str:
    """All digits of the SHA-256 of a file's contents."""
    return hashlib.sha256(content).hexdigest()


def dataset_fingerprint(examples: Iterable[Any]) -> str:
    """The fingerprint of examples in their order.

    Args:
        examples: JSON values, or dataclasses of such; a `datasets.Dataset` is an iterable of
            dictionaries.

    Raises:
        InputError: an example holds something else, such as an image.
    """
    digest = hashlib.sha256()
    for number, example in enumerate(examples):
        value = asdict(example) if is_dataclass(example) else example  # type: ignore[arg-type]
        try:
            line = json.dumps(value, sort_keys=True, ensure_ascii=False)
        except TypeError as error:
            raise InputError(f"example {number} is not plain data: {error}") from error
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()[:DIGITS]


def weights_fingerprint(model: Any) -> str:
    """The fingerprint of a model's weights, from a few values of each tensor.

    Weights that are not in memory (offloaded ones) do not count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta and tensor.numel():
            step = max(1, tensor.numel() // _VALUES_OF_A_TENSOR)
            values = tensor.detach().reshape(-1)[::step].contiguous().cpu()
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
