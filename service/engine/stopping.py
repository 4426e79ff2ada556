"""Stop texts: a response ends before the first that it comes to. Knows text; nothing of ids."""

from collections.abc import Sequence


class StopFinder:
    """Finds the first stop text in a text that comes in pieces, wherever these are cut.

    First is the one that is complete first; of two that are complete at the same character, the
    one that began earlier.

    Args:
        stops: what to look for; none of them empty.

    Attributes:
        found: whether there was one.
        length: characters that have been given out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""  # what may turn out to be the beginning of one
        self.found = False
        self.length = 0

    def step(self, piece: str) -> str:
        """Take a piece; returns what is certain to come before any stop text."""
        if self.found:
            return ""
        text = self._held + piece
        ends = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.found = True
            certain = min(ends)[1]
            self._held = ""
        else:
            certain = len(text) - self._beginning(text)
            self._held = text[certain:]
        self.length += certain
        return text[:certain]

    def finish(self) -> str:
        """What was held back, where nothing comes any more."""
        rest, self._held = self._held, ""
        self.length += len(rest)
        return rest

    def _beginning(self, text: str) -> int:
        """The most characters at the end of a text with which a stop text begins."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for count in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-count:]) for stop in self._stops):
                return count
        return 0
