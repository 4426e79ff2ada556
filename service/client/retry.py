"""When to ask again: the server said that it is busy or away, so nothing was done."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRIED = frozenset({429, 503})
"""Statuses after which the same request may succeed and can do no harm."""


@dataclass(frozen=True)
class Retry:
    """Waits that double, with jitter, and are never shorter than the server asked for.

    Attributes:
        attempts: how often a request is sent at most.
        first_seconds: the wait before the second attempt.
        most_seconds: the longest wait; a server that asks for more is not waited for.
    """

    attempts: int = 5
    first_seconds: float = 0.5
    most_seconds: float = 30.0

    def wait(self, attempt: int, retry_after: float | None, chance: float) -> float | None:
        """Seconds to wait after an attempt failed; None to give up.

        Args:
            attempt: the one that failed, from 1.
            retry_after: seconds that the server asked for, if it did.
            chance: a random number in [0, 1), so that many clients do not come back together.
        """
        if attempt >= self.attempts or (retry_after or 0.0) > self.most_seconds:
            return None
        doubled = self.first_seconds * 2.0 ** (attempt - 1) * (0.5 + 0.5 * chance)
        return min(self.most_seconds, max(doubled, retry_after or 0.0))


def parse_retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a `Retry-After` header, which has seconds or a date; None if it has neither."""
    header = (header or "").strip()
    if header.isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - (now or datetime.now(UTC))).total_seconds())
