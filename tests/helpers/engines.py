"""A model for whole engines and servers: tiny, random, and it never ends a response."""

from pathlib import Path

from tests.helpers.models import tiny_model
from tests.helpers.tokenizers import tiny_tokenizer


def save_endless_model(folder: Path, context_tokens: int) -> None:
    """Write a model with its tokenizer into a folder, as `AT2_MODEL` takes it."""
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model(
        "llama",
        vocab_size=len(tokenizer),
        eos_token_id=None,
        max_position_embeddings=context_tokens,
    )
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
