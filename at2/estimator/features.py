"""Features of a (target, source) pair: the attention it gets, per layer and head.

Feature `layer * num_heads + head` of target range T and source range S is the mean over tokens of
T of the sum over tokens of S of the attention weight (Cohen-Wang, Chuang, Madry 2025,
arXiv 2504.13752, section 3).

Other powers of the attention weight may join it. A concave one, such as the square root, tells weak
attention from none, which a sum of a few strong weights drowns: what an ablation does to a response
grows less than in proportion to the attention that it takes away (`docs/experiments.md`).

Contrasted features are those of T less those of the query, the tokens between the last source and
the target: see `at2.model.attention`.
"""

import reprlib
from collections.abc import Sequence
from operator import index
from typing import Any

from torch import Tensor

from at2.errors import EstimatorError, InputError, check_count
from at2.model.attention import attention_shape, source_features
from at2.model.weighing import PLAIN, check_exponents
from at2.ranges import TokenRange
from at2.tasks import AttributionTask

_CLASS = "AttentionFeatureExtractor"
_POWERS_CLASS = "AttentionPowersFeatureExtractor"
_CONTRASTIVE_CLASS = "ContrastiveAttentionFeatureExtractor"


class AttentionFeatureExtractor:
    """Attention weights of every captured layer and head as features.

    Args:
        num_layers: captured attention layers of the model.
        num_heads: attention heads in each of them.
        model_type: ignored; kept because published estimator files carry it.
        exponents: the powers of attention that are features, one block of layers × heads each.
        contrast: take off the attention of the query.

    Raises:
        InputError: there is no layer or no head, or an exponent is not above zero.
    """

    def __init__(
        self,
        num_layers: int,
        num_heads: int,
        model_type: str | None = None,
        exponents: Sequence[float] = PLAIN,
        contrast: bool = False,
    ) -> None:
        check_count(num_layers, "num_layers")
        check_count(num_heads, "num_heads")
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.model_type = model_type
        self.exponents = check_exponents(exponents)
        self.contrast = contrast

    @classmethod
    def from_model(
        cls, model: Any, exponents: Sequence[float] = PLAIN, contrast: bool = False
    ) -> "AttentionFeatureExtractor":
        """The extractor for a model, its layers and heads found by a probe."""
        shape = attention_shape(model)
        return cls(shape.num_layers, shape.num_heads, exponents=exponents, contrast=contrast)

    @property
    def num_features(self) -> int:
        """Exponents times layers times heads."""
        return len(self.exponents) * self.num_layers * self.num_heads

    def __call__(
        self,
        task: AttributionTask,
        target_ranges: Sequence[TokenRange],
        source_weights: Tensor | None = None,
    ) -> Tensor:
        """Features of absolute token ranges of a task.

        Args:
            source_weights: [sums, sources], to get weighted sums over the sources instead of each.

        Returns:
            Float32 [targets, sources or sums, features].
        """
        return source_features(
            task.model,
            task.marked_tokens,
            target_ranges,
            source_weights=source_weights,
            contrast=self.contrast,
            exponents=self.exponents,
        )

    def serialize(self) -> dict[str, Any]:
        """The published layout: class name and constructor arguments.

        What the published package does not have goes by a name that it refuses.
        """
        kwargs: dict[str, Any] = {
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "model_type": self.model_type,
        }
        if self.exponents != PLAIN:
            kwargs["exponents"] = list(self.exponents)
        if self.contrast:
            return {"class": _CONTRASTIVE_CLASS, "kwargs": kwargs}
        return {"class": _POWERS_CLASS if "exponents" in kwargs else _CLASS, "kwargs": kwargs}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> "AttentionFeatureExtractor":
        """The inverse of `serialize`.

        Raises:
            EstimatorError: another class, or arguments missing or not integers.
        """
        try:
            name, kwargs = data["class"], data["kwargs"]
            if name not in (_CLASS, _POWERS_CLASS, _CONTRASTIVE_CLASS):
                raise EstimatorError(f"unknown feature extractor {reprlib.repr(name)}")
            powers = kwargs["exponents"] if name == _POWERS_CLASS else PLAIN
            if name == _CONTRASTIVE_CLASS:
                powers = kwargs.get("exponents", PLAIN)
            extractor = cls(
                index(kwargs["num_layers"]),
                index(kwargs["num_heads"]),
                exponents=powers,
                contrast=name == _CONTRASTIVE_CLASS,
            )
        except (KeyError, TypeError, ValueError, InputError) as error:
            raise EstimatorError(f"malformed feature extractor: {reprlib.repr(error)}") from error
        extractor.model_type = kwargs.get("model_type")
        return extractor
