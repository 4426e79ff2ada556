"""A word between passes over the model, for whoever runs several methods in turn.

A method may take hundreds of passes, and another one a single pass: what runs both can let the
short one go first between two passes of the long one, or end a method that nobody wants any more.
Knows nothing of methods.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[int], None] | None] = ContextVar("at2_passes", default=None)

BACKWARD_COST = 2
"""A pass back, with the activations that it computes again, costs as so many forward ones."""


@contextmanager
def between_passes(listener: Callable[[int], None]) -> Iterator[None]:
    """Have a function called before each pass of what runs inside the block, in this thread.

    No pass is under way then: the function may run other passes over the same model, take its time,
    or raise, which ends the method.

    Args:
        listener: gets the number of tokens that the pass will take through the model.
    """
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def before_pass(tokens: int) -> None:
    """What a method calls before each pass, while it holds on to nothing of the model."""
    listener = _listener.get()
    if listener is not None:
        listener(tokens)
