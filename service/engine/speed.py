"""How fast this machine generates, measured on what it generates."""

_WEIGHT = 0.1
"""Of the latest generation in the average."""


class Speed:
    """What a token takes: one of a prompt, and one that is written."""

    def __init__(self) -> None:
        self._prompt_token = 0.0
        self._new_token = 0.0

    def measure(self, prompt_tokens: int, to_first: float, new_tokens: int, others: float) -> None:
        """Learn from the first generation, which has the machine to itself.

        Args:
            prompt_tokens: of its prompt.
            to_first: seconds until its first new token.
            new_tokens: that it wrote.
            others: seconds from the first to the last of them.
        """
        self._prompt_token = to_first / prompt_tokens
        self._new_token = others / max(new_tokens - 1, 1)

    def observe(self, new_tokens: int, others: float) -> None:
        """Learn from a later one, from its first new token to the last."""
        if new_tokens > 1:
            self._new_token += _WEIGHT * (others / (new_tokens - 1) - self._new_token)

    def seconds(self, prompt_tokens: int, new_tokens: int) -> float:
        """What a generation takes, about."""
        return prompt_tokens * self._prompt_token + new_tokens * self._new_token
