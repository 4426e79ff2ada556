"""Score estimators, learned functions from attention features to scores, and their files.

Two formats hold the same estimator: the published package's dictionary (`.pt`, read with
`weights_only=True`, so nothing in it can run) and safetensors with the metadata in its header.
Knows nothing of how an estimator is trained.

Metadata is the dictionary `extras`. Its keys, each of which may be missing:

    identity          the model it belongs to, a `ModelIdentity` as a dictionary
    training          settings and number of examples
    dataset           fingerprint of the examples (`at2.fingerprints.dataset_fingerprint`)
    metrics           what was measured on held-out examples
    library_version   of this package, when the estimator was first written
    date              of that day, `YYYY-MM-DD`
"""

import io
import json
import os
import reprlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from at2._version import __version__
from at2.errors import EstimatorError, EstimatorMismatchError
from at2.estimator.card import model_card
from at2.estimator.features import AttentionFeatureExtractor
from at2.estimator.identity import ModelIdentity
from at2.files import Place, local_copy, place_of, write_whole
from at2.model.attention import token_scores
from at2.model.weighing import Weighing
from at2.tasks import AttributionTask

PUBLISHED_FILE = "score_estimator.pt"
"""The file that the published package reads and writes."""

SAFETENSORS_FILE = "score_estimator.safetensors"
"""The same estimator as safetensors; preferred where both are there."""

CARD_FILE = "README.md"
"""What the hub shows of a repository with an estimator."""


class LinearScoreEstimator(nn.Module):
    """A score as a linear function of attention features, one weight per layer and head (and power
    of attention, if there are several).

    Weights start at 1/n, so that an untrained estimator is average attention.

    Args:
        feature_extractor: what computes the features; fixes their number.
        normalize: divide the weights by their L1 norm when training ends.
        non_negative: clamp the weights at zero after every training step.
        bias: add a constant to every score.
        extras: metadata that travels with the estimator, plain values only; see this module.
    """

    def __init__(
        self,
        feature_extractor: AttentionFeatureExtractor,
        normalize: bool = True,
        non_negative: bool = False,
        bias: bool = False,
        extras: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.feature_extractor = feature_extractor
        self.normalize = normalize
        self.non_negative = non_negative
        self.extras = dict(extras or {})
        num_features = feature_extractor.num_features
        self.linear = nn.Linear(num_features, 1, bias=bias)
        with torch.no_grad():
            self.linear.weight.fill_(1 / num_features)
            if bias:
                self.linear.bias.zero_()

    def forward(self, features: Tensor) -> Tensor:
        """Scores [..., 1] of features [..., num_features]."""
        scores: Tensor = self.linear(features)
        return scores

    @torch.no_grad()
    def get_scores(
        self, task: AttributionTask, attribution_start: int, attribution_end: int
    ) -> Tensor:
        """Scores of every token for a range of target tokens, as in the published package.

        Args:
            attribution_start, attribution_end: tokens, as positions in prompt and response.

        Returns:
            Float32 [attribution_end - attribution_start, attribution_end].
        """
        target = attribution_start, attribution_end
        tokens = replace(task.marked_tokens, target_range=target)
        return token_scores(task.model, tokens, self.weighing)

    @property
    def head_weights(self) -> Tensor:
        """The weights as float32, detached, on the CPU: [num_layers, num_heads], or [exponents,
        num_layers, num_heads] where the features are several powers of attention."""
        features = self.feature_extractor
        weights = self.linear.weight.detach().to("cpu", torch.float32)
        by_power = weights.view(len(features.exponents), features.num_layers, features.num_heads)
        return by_power[0] if len(features.exponents) == 1 else by_power

    @property
    def weighing(self) -> Weighing:
        """The estimator as what it does to attention."""
        bias = 0.0 if self.linear.bias is None else float(self.linear.bias.detach())
        features = self.feature_extractor
        return Weighing(self.head_weights, features.exponents, features.contrast, bias)

    @torch.no_grad()
    def project_parameters(self) -> None:
        """Return to the allowed space after a training step."""
        if self.non_negative:
            self.linear.weight.clamp_(min=0)

    @torch.no_grad()
    def finalize_parameters(self) -> None:
        """L1-normalise the weights after training, unless they are all zero."""
        norm = self.linear.weight.norm(p=1)
        if self.normalize and norm > 0:
            self.linear.weight.div_(norm)

    @property
    def identity(self) -> dict[str, Any] | None:
        """The model that the estimator was trained for, if its file says so."""
        identity = self.extras.get("identity")
        return identity if isinstance(identity, dict) else None

    def check_fits(self, identity: ModelIdentity) -> None:
        """Make sure that the estimator was trained for this model.

        Published estimators carry no identity: for them the number of layers and heads decides.

        Raises:
            EstimatorMismatchError: naming both sides.
        """
        features = self.feature_extractor
        if (features.num_layers, features.num_heads) != (identity.num_layers, identity.num_heads):
            raise EstimatorMismatchError(
                f"the estimator has {features.num_layers} layers × {features.num_heads} heads, "
                f"the model {identity.describe()}"
            )
        if self.identity is None:
            return
        for key in ("config", "tokenizer"):
            if self.identity.get(key) != getattr(identity, key):
                raise EstimatorMismatchError(
                    f"the estimator was trained for {self.identity.get('model')!r} "
                    f"({key} {self.identity.get(key)}), the model is {identity.model!r} "
                    f"({key} {getattr(identity, key)})"
                )

    # -- files ---------------------------------------------------------------------------------

    def save(
        self, path: str | Place, extras: dict[str, Any] | None = None, date: str | None = None
    ) -> None:
        """Write the estimator: `.safetensors`, or the published dictionary for any other suffix.

        The file appears whole or not at all. The same estimator gives the same bytes: the time of
        writing is not stored unless it is asked for.

        Args:
            extras: added to the estimator's own.
            date: `YYYY-MM-DD`; by default the one in `extras`, or else the day of the environment
                variable SOURCE_DATE_EPOCH if that is set, else none.

        Raises:
            EstimatorError: a weight is not finite, or something in `extras` is no plain value.
        """
        path = place_of(path)
        write_whole(path, self._to_bytes(path.suffix, self._header(extras, date)))

    def save_folder(
        self, folder: str | Place, extras: dict[str, Any] | None = None, date: str | None = None
    ) -> None:
        """Write the estimator in both formats with a model card, ready for the hub.

        Args:
            extras, date: see `save`.

        Raises:
            EstimatorError: see `save`; nothing is written.
        """
        folder, features = place_of(folder), self.feature_extractor
        header = self._header(extras, date)
        card = model_card(
            header["extras"], features.num_layers, features.num_heads, features.exponents
        )
        contents = {
            name: self._to_bytes(Path(name).suffix, header)
            for name in (PUBLISHED_FILE, SAFETENSORS_FILE)
        }
        for name, content in {**contents, CARD_FILE: card.encode("utf-8")}.items():
            write_whole(folder / name, content)

    def _to_bytes(self, suffix: str, header: dict[str, Any]) -> bytes:
        state = {k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}
        if not all(torch.isfinite(value).all() for value in state.values()):
            raise EstimatorError("the estimator cannot be saved: its weights are not finite")
        if suffix == ".safetensors":
            metadata = {"at2": json.dumps(header, sort_keys=True)}
            content: bytes = safetensors_bytes(state, metadata=metadata)
            return content
        buffer = io.BytesIO()  # a file's name would become part of its bytes
        torch.save({**header, "state_dict": state}, buffer)
        return buffer.getvalue()

    def _header(self, extras: dict[str, Any] | None, date: str | None) -> dict[str, Any]:
        """What both formats hold beside the weights, as JSON has it."""
        metadata = {"library_version": __version__, **self.extras, **(extras or {})}
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if date is not None:
            metadata["date"] = date
        elif epoch is not None and epoch.isdecimal():
            day = datetime.fromtimestamp(int(epoch), UTC).date()
            metadata.setdefault("date", day.isoformat())
        header = {
            "class": "LinearScoreEstimator",
            "feature_extractor": self.feature_extractor.serialize(),
            "kwargs": {
                "normalize": self.normalize,
                "non_negative": self.non_negative,
                "bias": self.linear.bias is not None,
            },
            "extras": metadata,
        }
        try:
            text = json.dumps(header, default=_plain_number, ensure_ascii=False)
            text.encode("utf-8")
        except (TypeError, ValueError) as error:
            raise EstimatorError(f"extras cannot be saved: {_reason(error)}") from error
        plain: dict[str, Any] = json.loads(text)
        return plain

    @classmethod
    def load(
        cls, path: str | Place, device: str | torch.device | None = None
    ) -> "LinearScoreEstimator":
        """Read an estimator from a file of either format, or from a folder that holds one.

        Raises:
            EstimatorError: no such file, a damaged one, or one of an unknown layout.
        """
        path = _resolve(place_of(path))
        try:
            with local_copy(path) as file:
                header, state = _parts(file)
        except Exception as error:  # files of others fail in too many ways to list
            if isinstance(error, OSError):
                reason = error.strerror or _reason(error)
            elif path.suffix == ".safetensors":
                reason = _reason(error)
            else:  # torch says how to load it unsafely
                reason = "it is damaged, not written by torch.save, or holds more than plain values"
            raise EstimatorError(f"{path.name} is not a readable estimator: {reason}") from error
        estimator = cls._from_parts(path.name, header, state)
        return estimator if device is None else estimator.to(device)

    @classmethod
    def _from_parts(cls, name: str, header: Any, state: Any) -> "LinearScoreEstimator":
        try:
            if header["class"] != "LinearScoreEstimator":
                raise EstimatorError(f"unknown estimator {reprlib.repr(header['class'])}")
            kwargs = dict(header["kwargs"])
            extractor = AttentionFeatureExtractor.deserialize(header["feature_extractor"])
            expected, actual = (1, extractor.num_features), tuple(state["linear.weight"].shape)
            if actual != expected:  # before memory is taken for as many weights as a file claims
                raise EstimatorError(f"weights of shape {actual} where {expected} belong")
            weights = {key: value.float() for key, value in state.items()}
            if not all(torch.isfinite(value).all() for value in weights.values()):
                raise EstimatorError("weights that are not finite")
            estimator = cls(
                extractor,
                normalize=bool(kwargs.get("normalize", True)),
                non_negative=bool(kwargs.get("non_negative", False)),
                bias=bool(kwargs.get("bias", False)),
                extras=header.get("extras"),
            )
            estimator.load_state_dict(weights)
        except (
            EstimatorError,
            KeyError,
            IndexError,
            TypeError,
            AttributeError,
            RuntimeError,
            ValueError,
        ) as error:
            raise EstimatorError(f"{name} has an unknown layout: {_reason(error)}") from error
        return estimator

    @classmethod
    def from_path(
        cls, path: str | Place, device: str | torch.device | None = None
    ) -> "LinearScoreEstimator":
        """The same as `load`."""
        return cls.load(path, device)

    @classmethod
    def from_hub(
        cls,
        model_name: str,
        device: str | torch.device | None = None,
        revision: str | None = None,
    ) -> "LinearScoreEstimator":
        """Download an estimator from the hub, e.g. "madrylab/at2-phi-4-mini-instruct".

        Args:
            device: where to put it.
            revision: branch, tag or commit.

        Raises:
            EstimatorError: the hub cannot be reached or has no such estimator.
        """
        try:
            try:
                path = hf_hub_download(model_name, SAFETENSORS_FILE, revision=revision)
            except EntryNotFoundError:  # published ones have no safetensors
                path = hf_hub_download(model_name, PUBLISHED_FILE, revision=revision)
        except (OSError, ValueError, HfHubHTTPError) as error:
            raise EstimatorError(
                f"cannot fetch estimator {model_name!r}: {_reason(error)}"
            ) from error
        return cls.load(path, device)


def _parts(path: Path) -> tuple[Any, Any]:
    """The header and the weights that a file holds."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["at2"])
            return header, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    header = torch.load(path, map_location="cpu", weights_only=True)
    return header, header["state_dict"]


def _plain_number(value: object) -> Any:
    """What numpy computes, as Python's own number."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value")


def _reason(error: Exception) -> str:
    """An error in one line that a terminal shows as it is."""
    text = f"no {error}" if isinstance(error, KeyError) else str(error)
    line = next((line.strip() for line in text.splitlines() if line.strip()), repr(error))
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)


def _resolve(path: Place) -> Place:
    """The estimator file meant by a path: itself, or the one inside a folder."""
    if path.is_dir():
        for name in (SAFETENSORS_FILE, PUBLISHED_FILE):
            if (path / name).is_file():
                return path / name
        raise EstimatorError(f"no {SAFETENSORS_FILE} or {PUBLISHED_FILE} in {path.name!r}")
    if not path.is_file():
        raise EstimatorError(f"no estimator file {path.name!r}")
    return path


def load_estimator(
    name_or_path: str | Place, device: str | torch.device | None = None
) -> LinearScoreEstimator:
    """An estimator from a file, a folder, or else from the hub by name.

    What can only be a path (`/…`, `./…`, `….pt`, `….safetensors`) is not looked for on the hub.

    Raises:
        EstimatorError: there is none, or it cannot be used.
    """
    path = place_of(name_or_path)
    only_a_path = (
        not isinstance(path, Path)
        or path.is_absolute()
        or str(name_or_path).startswith(".")
        or path.suffix in (".pt", ".safetensors")
    )
    if only_a_path or path.exists():
        return LinearScoreEstimator.load(path, device)
    return LinearScoreEstimator.from_hub(str(name_or_path), device)
