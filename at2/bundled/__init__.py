"""The small model and estimator that ship with the package, so that a first try needs no download.

A Llama of three million parameters, trained from scratch by `trainer_jobs.bundled` on generated
text. It answers questions over short contexts about people, companies and towns, in the phrasings
that it has learned, and nothing else: for real use name another model.
"""

from pathlib import Path

NAME = "bundled"
"""What to pass as a model's or an estimator's name to get the ones in this package."""

PATH = Path(__file__).parent / "model"
"""The model's folder: configuration, weights as safetensors, tokenizer."""

ESTIMATOR_PATH = Path(__file__).parent / "estimator"
"""The folder of the estimator trained for it."""

DESCRIPTION = (
    "A demonstration model of 3 million parameters, trained on generated text. It answers "
    "questions about people, companies and towns from a few plain sentences, in phrasings such as "
    "those of the examples; others it does not understand. "
    "For real use set AT2_MODEL and AT2_ESTIMATOR."
)
"""What the model is, for people who meet it in a server."""
