"""How fast this machine is, measured on what it does."""

import time
from collections.abc import Callable

from service.engine.accounts import Account

_WEIGHT = 0.1
"""Of the latest generation in the average."""


class Speed:
    """What a token takes: of a prompt, of a response, and in a pass of attribution."""

    def __init__(self) -> None:
        self._prompt_token = 0.0
        self._new_token = 0.0
        self._pass_token = 0.0

    def measure(self, prompt_tokens: int, to_first: float, new_tokens: int, others: float) -> None:
        """Learn from the first generation, which has the machine to itself.

        Args:
            prompt_tokens: of its prompt.
            to_first: seconds until its first new token.
            new_tokens: that it wrote.
            others: seconds from the first to the last of them.
        """
        self._prompt_token = self._pass_token = to_first / prompt_tokens
        self._new_token = others / max(new_tokens - 1, 1)

    def measure_passes(self, tokens: int, seconds: float) -> None:
        """Learn what passes take, where nothing is generated here."""
        self._pass_token = seconds / tokens

    def observe(self, new_tokens: int, others: float) -> None:
        """Learn from a later one, from its first new token to the last."""
        if new_tokens > 1:
            self._new_token += _WEIGHT * (others / (new_tokens - 1) - self._new_token)

    def observe_passes(self, tokens: int, seconds: float) -> None:
        """Learn from an attribution, whose passes took so many tokens through the model."""
        if tokens > 0:
            self._pass_token += _WEIGHT * (seconds / tokens - self._pass_token)

    def pass_seconds(self, tokens: int) -> float:
        """What passes over so many tokens take, about."""
        return tokens * self._pass_token

    def seconds(self, prompt_tokens: int, new_tokens: int) -> float:
        """What a generation takes, about."""
        return prompt_tokens * self._prompt_token + new_tokens * self._new_token


class TokenMeter:
    """Counts the tokens of one generation as they come; call it with the number of new ones.

    Args:
        on_tokens: is called in the same way.
        speed: learns from the generation when it is done.
        account: of the caller.
        prompt_tokens: of the prompt.
    """

    def __init__(
        self,
        on_tokens: Callable[[int], None],
        speed: Speed,
        account: Account,
        prompt_tokens: int,
    ) -> None:
        self._on_tokens = on_tokens
        self._speed = speed
        self._account = account
        self._prompt_tokens = prompt_tokens
        self._count = 0
        self._first = self._last = 0.0

    def __call__(self, new: int) -> None:
        self._last = time.perf_counter()
        if not self._count:
            self._first = self._last
            self._account.prompt_tokens += self._prompt_tokens
        self._count += new
        self._account.new_tokens += new
        self._on_tokens(new)

    def done(self) -> None:
        """The generation has ended."""
        self._speed.observe(self._count, self._last - self._first)
