"""Whose turn it is, where several callers want the same thing: passes over a model, or room.

Between callers, the one who has had least goes first, so that each gets an equal share however much
is asked for. Between works of one caller, the one goes first that has waited longest for its size
(the highest response ratio): short ones pass long ones, and a long one is never passed for ever.
Time is counted in what was given, not by a clock, so the order follows from the works alone. Knows
nothing of what is done.
"""

import itertools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

LEAST_SIZE = 1.0
"""What is left of a work that took more than was thought."""


@dataclass(eq=False)
class Turn:
    """A work's place among the others.

    Attributes:
        caller: who asks for it; the same name is the same caller.
        left: what it still takes, about.
        arrived: what all had been given when it came.
        had: what it has been given.
    """

    caller: str
    left: float
    number: int = 0
    arrived: float = 0.0
    had: float = field(default=0.0)


class Turns:
    """Keeps account of what each caller was given. Whoever uses it takes care of locking."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._given = 0.0  # to all, ever
        self._had: dict[str, float] = {}  # what each caller has had, since it began to ask
        self._level = 0.0  # what the caller had had who was given something last
        self._works: Counter[str] = Counter()

    def join(self, caller: str, size: float) -> Turn:
        """A place for a new work."""
        if not self._works[caller]:
            # Nobody saves up turns by not asking, and nobody gets rid of what they had by leaving.
            self._had = {
                name: had
                for name, had in self._had.items()
                if self._works[name] or had > self._level
            }
            self._had[caller] = max(self._had.get(caller, 0.0), self._level)
        self._works[caller] += 1
        return Turn(caller, max(size, LEAST_SIZE), next(self._numbers), self._given)

    def leave(self, turn: Turn) -> None:
        """The work is over, or nobody wants it any more."""
        self._works[turn.caller] -= 1
        if not self._works[turn.caller]:
            del self._works[turn.caller]
        if not self._works:  # who asks next starts level with all
            self._level = max(self._had.values())

    def give(self, turn: Turn, amount: float) -> None:
        """Charge a work, and its caller, for what they are given."""
        self._level = self._had[turn.caller]
        self._had[turn.caller] += amount
        self._given += amount
        turn.had += amount
        turn.left = max(turn.left - amount, LEAST_SIZE)

    def first(self, turns: Iterable[Turn]) -> Turn:
        """Whose turn it is among some, of which there is at least one."""
        return min(turns, key=self.rank)

    def had(self, turn: Turn) -> float:
        """What the caller of a work has had."""
        return self._had[turn.caller]

    def rank(self, turn: Turn) -> tuple[float, float, float, int]:
        """What to sort works by, so that whose turn it is comes first."""
        waited = self._given - turn.arrived - turn.had
        return (self._had[turn.caller], -waited / turn.left, turn.left, turn.number)
