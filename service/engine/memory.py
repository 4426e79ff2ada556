"""Whether the key-value cache fits the memory, found out before it is allocated."""

from typing import Any

from at2.errors import ModelError
from at2.training.table import free_memory

_GB = 1e9


def check_cache(model: Any, tokens: int) -> None:
    """Refuse a cache that is larger than what is free: the process would be killed without a word.

    Args:
        model: whose keys and values it holds.
        tokens: of all running generations.

    Raises:
        ModelError: it does not fit.
    """
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    of_token = 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    free = free_memory(model.device)
    if tokens * of_token > free:
        raise ModelError(
            f"AT2_CACHE_TOKENS={tokens}: so many tokens take {tokens * of_token / _GB:.1f} GB on "
            f"{model.device}, where {free / _GB:.1f} GB are free"
        )
