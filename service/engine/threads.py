"""How many threads of a CPU a step of generation takes.

Sharing out a small step costs more than it saves: one token of a model of a few million parameters
is no faster with two threads, and with another process on the second core it is several times
slower, since each of the step's hundred operations waits for the slower half (docs/speed.md).
"""

from collections.abc import Callable
from typing import Any

import torch

_SMALL_STEP = 100_000_000
"""Multiplications, a parameter times a token, up to which a step runs in one thread."""


def adapt_threads(model: Any) -> None:
    """Let every pass of a model on a CPU take one thread or all, as its size asks for.

    PyTorch keeps the number for each thread that calls it, so other threads' passes are not
    affected, if they have called `claim_threads`.
    """
    if model.device.type != "cpu":
        return
    all_threads = torch.get_num_threads()
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def before(_: Any, __: Any, inputs: dict[str, Any]) -> None:
        small = parameters * inputs["input_ids"].numel() <= _SMALL_STEP
        torch.set_num_threads(1 if small else all_threads)

    model.register_forward_pre_hook(before, with_kwargs=True)


def claim_threads() -> Callable[[], None]:
    """What a thread calls at first, so that its passes take as many threads as this one's now.

    A thread would otherwise begin with what was chosen last, in whichever thread.
    """
    count = torch.get_num_threads()

    def claim() -> None:
        torch.get_num_threads()  # the first call in a thread copies what was chosen last
        torch.set_num_threads(count)

    return claim
