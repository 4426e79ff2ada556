"""The models used last, loaded once in a process."""

import threading
from collections import OrderedDict
from typing import Any

from at2.model.loading import check_model_name, get_model_and_tokenizer

MOST_MODELS = 2
"""How many are kept. Before another is loaded, the one used longest ago is let go."""

_kept: OrderedDict[str, tuple[Any, Any]] = OrderedDict()
_lock = threading.Lock()


def recent_model(name: str) -> tuple[Any, Any]:
    """A model and its tokenizer as `get_model_and_tokenizer(name)` loads them, the same objects
    each time while it is among the last `MOST_MODELS`; safe from several threads.

    Raises:
        ModelError: it cannot be loaded.
    """
    with _lock:
        if name not in _kept:
            if len(_kept) >= MOST_MODELS:
                check_model_name(name)  # nothing makes way for a name that is misspelt
                _kept.popitem(last=False)
            _kept[name] = get_model_and_tokenizer(name)
        _kept.move_to_end(name)
        return _kept[name]


def forget_models() -> None:
    """Let go of all that `recent_model` keeps."""
    with _lock:
        _kept.clear()
