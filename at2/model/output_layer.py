"""Logits for some tokens only: the vocabulary is never multiplied for the others.

What the model does after its output layer (caps, scales) stays the model's own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

_pass: ContextVar[object | None] = ContextVar("at2_output_layer", default=None)


@contextmanager
def output_only(model: Any, select: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Let only selected hidden states into the output layer of the passes inside the block.

    Passes of other threads are left alone. Without an output layer nothing is selected.

    Args:
        model: a causal language model.
        select: gets the hidden states [batch, tokens, width] that are about to enter and returns
            those to enter in their place; None for all of them.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    this_pass = object()

    def enter(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        # Hooks are called for passes of other threads, too.
        selected = select(args[0]) if args and _pass.get() is this_pass else None
        return None if selected is None else (selected, *args[1:])

    hook = head.register_forward_pre_hook(enter)
    token = _pass.set(this_pass)
    try:
        yield
    finally:
        _pass.reset(token)
        hook.remove()
