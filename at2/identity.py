"""What makes two models the same for an estimator: architecture, heads and tokenizer.

Fingerprints are short hashes of named fields only, so they do not change with the version of
transformers that happens to add a default to a configuration.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

from at2.attention import attention_shape

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
_DIGITS = 16


def _fingerprint(value: object) -> str:
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


@dataclass(frozen=True)
class ModelIdentity:
    """The facts about a model that an estimator is bound to.

    Attributes:
        model: hub id, folder or other name of the model, for people to read.
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
            model=str(model.name_or_path),
            revision=getattr(model.config, "_commit_hash", None),
            config=_fingerprint({key: getattr(config, key, None) for key in _CONFIG_KEYS}),
            tokenizer=_fingerprint(
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
