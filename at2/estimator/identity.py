"""What makes two models the same for an estimator: architecture, heads and tokenizer.

The fingerprint of a configuration is of named fields only, so it does not change with a version of
transformers that adds a default.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from at2.fingerprints import fingerprint
from at2.model.attention import attention_shape

_CONFIG_KEYS = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "layer_types",
)


def public_name(name: str) -> str:
    """A model's name without the place of its folder, which is nobody's business."""
    return Path(name).name if Path(name).is_absolute() else name


@dataclass(frozen=True)
class ModelIdentity:
    """The facts about a model that an estimator is bound to.

    Attributes:
        model: hub id of the model, or the name of its folder, for people to read.
        revision: commit of the model on the hub, if known.
        config: fingerprint of the architecture.
        tokenizer: fingerprint of the vocabulary and the added tokens.
        num_layers, num_heads: captured attention layers, and heads in each.
    """

    model: str
    revision: str | None
    config: str
    tokenizer: str
    num_layers: int
    num_heads: int

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> "ModelIdentity":
        """The identity of a loaded model and its tokenizer; computed once for each pair."""
        of_model = _identities.setdefault(model, WeakKeyDictionary())
        if tokenizer not in of_model:
            of_model[tokenizer] = cls._compute(model, tokenizer)
        return of_model[tokenizer]

    @classmethod
    def _compute(cls, model: Any, tokenizer: Any) -> "ModelIdentity":
        config = model.config.get_text_config()
        shape = attention_shape(model)
        return cls(
            model=public_name(str(model.name_or_path)),
            revision=getattr(model.config, "_commit_hash", None),
            config=fingerprint({key: getattr(config, key, None) for key in _CONFIG_KEYS}),
            tokenizer=fingerprint(
                [sorted(tokenizer.get_vocab().items()), sorted(tokenizer.get_added_vocab().items())]
            ),
            num_layers=shape.num_layers,
            num_heads=shape.num_heads,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in an estimator's metadata."""
        return asdict(self)

    def describe(self) -> str:
        """One phrase for error messages."""
        return f"{self.model!r} ({self.num_layers} layers × {self.num_heads} heads)"


_identities: WeakKeyDictionary[Any, WeakKeyDictionary[Any, ModelIdentity]] = WeakKeyDictionary()
