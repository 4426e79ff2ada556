"""Loading, splitting and shares of a data set under the published package's import path."""

from at2.model.loading import (
    Quantization,
    default_device,
    default_dtype,
    get_model_and_tokenizer,
)
from at2.text.sentences import is_sentence, split_text
from at2.training.job_shares import create_registry, get_job_start_and_end, infer_num_jobs

__all__ = [
    "Quantization",
    "create_registry",
    "default_device",
    "default_dtype",
    "get_job_start_and_end",
    "get_model_and_tokenizer",
    "infer_num_jobs",
    "is_sentence",
    "split_text",
]
