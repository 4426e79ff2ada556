"""The model card of a score estimator: what it is, what it fits, how it was made and measured.

Knows an estimator's metadata only. Values come from files that others may have written, so they
are shown as code and cannot add headings, links or fields.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

_PAPER = "https://arxiv.org/abs/2504.13752"

_USE = """```python
from at2 import AT2Attributor
from at2.tasks import SimpleContextAttributionTask
from at2.model.loading import get_model_and_tokenizer

model, tokenizer = get_model_and_tokenizer({model})
task = SimpleContextAttributionTask(
    context="…", query="…", model=model, tokenizer=tokenizer, source_type="sentence"
)
attributor = AT2Attributor.from_hub(task, "…")  # or from_path(task, folder)
attributor.show_attribution()
```"""


def model_card(
    metadata: Mapping[str, Any], num_layers: int, num_heads: int, exponents: Sequence[float]
) -> str:
    """Markdown with the header that the Hugging Face hub reads.

    Args:
        metadata: an estimator's `extras`; see `at2.estimator.linear`.
        num_layers, num_heads: the shape of its weights.
        exponents: the powers of attention that each have such weights.
    """
    identity = _section(metadata, "identity")
    model = identity.get("model")
    fields = {
        "layers × heads": f"{num_layers} × {num_heads}",
        "exponents": ", ".join(f"{exponent:g}" for exponent in exponents),
        **{key: identity.get(key) for key in ("model", "revision", "config", "tokenizer")},
        **{key: metadata.get(key) for key in ("dataset", "library_version", "date")},
    }
    header = ModelCardData(
        base_model=model if _is_hub_name(model) else None,
        library_name="at2",
        tags=["attribution", "at2"],
    )
    parts = [
        f"---\n{header.to_yaml()}\n---",
        "# AT2 score estimator" + (f" for {_code(model)}" if model else ""),
        "Predicts from attention weights how much each part of a context matters to what the model "
        f"wrote: one weight per layer and head ([Attribution with Attention]({_PAPER})). It fits "
        "this model and tokenizer only; loading it for another is refused.",
        "## Use",
        _USE.format(model=json.dumps(model if model else "…", ensure_ascii=False)),
        "## What it belongs to",
        _table(fields),
    ]
    for heading, key in (("Training", "training"), ("Metrics", "metrics")):
        values = _flat(_section(metadata, key))
        if values:
            parts += [f"## {heading}", _table(values)]
    return "\n\n".join(parts) + "\n"


def _section(metadata: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = metadata.get(key)
    return value if isinstance(value, Mapping) else {}


def _is_hub_name(name: object) -> bool:
    """Whether a model's name is one on the hub, `owner/name`, rather than a folder."""
    if not isinstance(name, str) or "/" not in name:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _table(fields: Mapping[str, Any]) -> str:
    rows = [
        f"| {_code(key)} | {_code(f'{value:.4g}' if isinstance(value, float) else value)} |"
        for key, value in fields.items()
        if value is not None
    ]
    return "\n".join(["| | |", "|---|---|", *rows])


def _code(value: object) -> str:
    """A value as inline code on one line, safe in a table."""
    text = " ".join(str(value).split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`" if text else "–"
