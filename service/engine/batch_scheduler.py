"""In which order prompts are read: callers in turns, short prompts before long ones.

transformers' continuous batching reads prompts in the order in which they came, a piece in each
step, so that one of thousands of tokens holds up all that come after it: on a CPU for a minute.
Knows the scheduler of transformers 5; nothing of what is read.
"""

from typing import Any

from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

from service.engine.turns import Turn, Turns

SCHEDULER = "at2_turns"
"""The name by which transformers finds the scheduler."""

_PIECE_OF_WHO_IS_AHEAD = 0.25
"""Of a step. On a CPU a quarter of 256 tokens takes a third of the time."""


def request_name(number: int, caller: str) -> str:
    """The id of a request, from which the scheduler knows whose it is."""
    return f"r{number}:{caller}"


class TurnsScheduler(FIFOScheduler):  # type: ignore[misc]  # it has no types
    """Every response that is being written gets its next token in every step; what is left of the
    step goes to prompts. Of these the one comes first whose caller has had the fewest tokens, and
    of one caller the one that has waited longest for its size. The prompts of callers who have had
    far more than others, whose responses are being written, are read in small pieces: the larger
    the step, the longer the others wait for a token.
    """

    def reset(self) -> None:
        """Begin anew."""
        super().reset()
        self._turns = Turns()
        self._turn_of: dict[str, Turn] = {}

    def clear_cancelled_requests(self) -> Any:
        """As the base class has it. Where the cache was full, nothing begins until a response ends;
        one that is given up leaves as much room as one that is finished."""
        before = len(self.active_requests)
        cancelled = super().clear_cancelled_requests()
        if len(self.active_requests) < before:
            self.block_new_requests = False
        return cancelled

    def _process_candidates(
        self, candidates: list[RequestState], token_budget: int, *rest: Any
    ) -> tuple[Any, ...]:
        """As the base class has it, with the prompts in another order."""
        for name in [name for name in self._turn_of if not self._holds(name)]:
            self._turns.leave(self._turn_of.pop(name))
        written = [state for state in candidates if state.status == RequestStatus.DECODING]
        read = [state for state in candidates if state.status != RequestStatus.DECODING]
        read.sort(key=lambda state: self._turns.rank(self._turn(state)))
        if written and read:
            read, token_budget = self._beside(written, read, token_budget)
        found: tuple[Any, ...] = super()._process_candidates(written + read, token_budget, *rest)
        given = [(self._turn(scheduled.state), scheduled.query_length) for scheduled in found[0]]
        # Who has had least is given last: whoever asks next begins level with them.
        for turn, tokens in sorted(given, key=lambda one: self._turns.rank(one[0]), reverse=True):
            self._turns.give(turn, tokens)
        return found

    def _beside(
        self, written: list[RequestState], read: list[RequestState], token_budget: int
    ) -> tuple[list[RequestState], int]:
        """Which prompts to read beside responses that are written, and the tokens of that step:
        those of callers who are no more than a step ahead; or else all, by a small piece."""
        least = min(self._had(state) for state in written)
        level = [state for state in read if self._had(state) <= least + token_budget]
        if level:
            return level, token_budget
        piece = int(token_budget * _PIECE_OF_WHO_IS_AHEAD)
        return read, min(token_budget, len(written) + piece)

    def _had(self, state: RequestState) -> float:
        """Tokens that its caller has been given."""
        return self._turns.had(self._turn(state))

    def _holds(self, name: str) -> bool:
        return name in self.active_requests or name in self.waiting_requests

    def _turn(self, state: RequestState) -> Turn:
        """A request's place among the others."""
        name = state.request_id
        if name not in self._turn_of:
            caller = name.partition(":")[2]
            self._turn_of[name] = self._turns.join(caller, len(state.initial_tokens))
        return self._turn_of[name]


SCHEDULER_MAPPING[SCHEDULER] = TurnsScheduler
