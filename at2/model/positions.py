"""How many tokens a model takes, and which sequences may share a pass without changing each other.

Some rotary embeddings take their frequencies from the longest sequence of a batch: Phi-3's long
rope has one set for sequences within the length of its pretraining and another one beyond, the
dynamic kind has others for every length beyond. A sequence may then only stand beside those that
have the same.
"""

from typing import Any
from weakref import WeakKeyDictionary

from at2.errors import InputError, PromptTooLongError

_chosen: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


def context_length(model: Any) -> int | None:
    """The number of tokens that a model takes; None if its config names none.

    It is what `set_context_length` has set. Otherwise YaRN stretches the original length by its
    factor and dynamic rope the config's, which may name the length before. Of other kinds the
    config names the length that is meant.
    """
    chosen = _chosen.get(model)
    return _named_length(model) if chosen is None else chosen


def _named_length(model: Any) -> int | None:
    config = _text_config(model)
    limit = getattr(config, "max_position_embeddings", None)
    for rope in _ropes(config):
        factor = rope.get("factor")
        if rope.get("rope_type") == "yarn" and factor is not None:
            limit = int(factor * rope.get("original_max_position_embeddings", limit))
        elif rope.get("rope_type") == "dynamic" and factor is not None and limit is not None:
            limit = int(factor * limit)
    return limit if isinstance(limit, int) and limit > 0 else None


def set_context_length(model: Any, tokens: int) -> None:
    """Let a model take so many tokens and no more, whatever its config says.

    Raises:
        InputError: the number is not positive, or the model has no embeddings for so many
            positions (they are learned, not rotary).
    """
    if tokens < 1:
        raise InputError(f"a context of {tokens} tokens is none", param="context_length")
    limit = _named_length(model)
    if limit is not None and tokens > limit and not _ropes(_text_config(model)):
        raise InputError(
            f"the model has positions for {limit} tokens, not for {tokens}", param="context_length"
        )
    _chosen[model] = tokens


def check_length(model: Any, prompt_tokens: int, new_tokens: int = 0) -> None:
    """Check that a prompt and a response fit the model.

    Raises:
        PromptTooLongError: they do not; the message names both numbers and the limit.
    """
    limit = context_length(model)
    if limit is not None and prompt_tokens + new_tokens > limit:
        raise PromptTooLongError(
            f"the prompt has {prompt_tokens} tokens and the response up to {new_tokens}, "
            f"but the model takes {limit} in all"
        )


def frequencies(model: Any, length: int) -> tuple[int, ...]:
    """Tells which rotary frequencies a model has for a sequence of a length: sequences with equal
    values may share a pass. Empty where all sequences have the same."""
    config = _text_config(model)
    by_rope = []
    for rope in _ropes(config):
        if rope.get("rope_type") == "longrope":
            by_rope.append(int(length > rope["original_max_position_embeddings"]))
        elif rope.get("rope_type") == "dynamic":
            by_rope.append(length if length > config.max_position_embeddings else 0)
    return tuple(by_rope)


def _text_config(model: Any) -> Any:
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _ropes(config: Any) -> list[dict[str, Any]]:
    """The kinds of rotary embeddings: one, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, dict) or not rope:
        return []
    nested = [kind for kind in rope.values() if isinstance(kind, dict)]
    return nested or [rope]
