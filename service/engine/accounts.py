"""What each caller was given, and what it cost them: whether turns are fair can be seen here."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass
class Account:
    """What one caller was given since the server began.

    Attributes:
        prompt_tokens: of prompts that were read.
        new_tokens: that were written, those of responses that were given up included.
        scored_tokens: that attribution took through the model.
        waited: seconds in which its requests waited for their turns.
        refused: requests that were not let in.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    scored_tokens: int = 0
    waited: float = 0.0
    refused: int = 0


class Accounts:
    """The accounts of all callers. Each number has one thread that writes it."""

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}

    def of(self, caller: str) -> Account:
        """The account of a caller, a new one for a new caller."""
        return self._accounts.setdefault(caller, Account())

    @property
    def all(self) -> Mapping[str, Account]:
        """Every account there is, by caller."""
        return dict(self._accounts)
