"""Loading and sentence splitting under the published package's import path."""

from at2.model.loading import (
    Quantization,
    default_device,
    default_dtype,
    get_model_and_tokenizer,
)
from at2.text.sentences import split_text

__all__ = [
    "Quantization",
    "default_device",
    "default_dtype",
    "get_model_and_tokenizer",
    "split_text",
]
