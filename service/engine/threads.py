"""How many threads of a CPU a step of generation takes.

Sharing out a small step costs more than it saves: one token of a model of a few million parameters
is no faster with two threads, and with another process on the second core it is several times
slower, since each of the step's hundred operations waits for the slower half (docs/speed.md).
"""

import threading
from collections.abc import Callable
from typing import Any

import torch

_SMALL_STEP = 100_000_000
"""Multiplications, a parameter times a token, up to which a step runs in one thread."""

_SHARED = 2**20
"""Numbers that PyTorch adds up with all threads there are."""


def adapt_threads(model: Any) -> None:
    """Let every pass of a model on a CPU take one thread or all, as its size asks for.

    PyTorch keeps the number for each thread that calls it, so other threads' passes are not
    affected, if they have called `claim_threads`.
    """
    if model.device.type != "cpu":
        return
    all_threads = torch.get_num_threads()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seen = threading.local()

    def before(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        if not hasattr(seen, "this_thread"):
            torch.set_num_threads(all_threads)
            _start_helpers()
            seen.this_thread = True
        small = parameters * inputs["input_ids"].numel() <= _SMALL_STEP
        torch.set_num_threads(1 if small else all_threads)

    model.register_forward_pre_hook(before, with_kwargs=True)


def claim_threads() -> Callable[[], None]:
    """What a new thread calls first, so that its passes take as many threads as this one's do.

    A thread would otherwise begin with what was chosen last, in whichever thread.
    """
    count = torch.get_num_threads()

    def claim() -> None:
        torch.get_num_threads()  # the first call in a thread copies what was chosen last
        torch.set_num_threads(count)
        _start_helpers()

    return claim


def _start_helpers() -> None:
    """Start the threads that share this one's work, while there is memory for them: OpenMP ends the
    process if it cannot start one later."""
    torch.ones(_SHARED).sum()
