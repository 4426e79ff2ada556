"""When the statements of a response that is being written have ended.

Knows text only; nothing of models or of sources.
"""

import itertools
import math
import re

from at2.text.sentences import split_sentences

LOOK_AHEAD = 32
"""Characters of what follows a statement before it counts as ended: what follows decides where a
sentence ends. Text beyond them may still decide otherwise."""

_MAY_END = re.compile(r"[^\w\s,;]\s|[。！？…]|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
"""Where a statement may have ended; whether it has is for `split_sentences` to say."""

_GROWTH = 8
"""By one part in so many: all that is split is a few times the text."""


class StatementEnds:
    """Notices, as a text grows, that statements have ended, no more often than they do.

    Each character is searched once. Where a statement may have ended, what has come since the last
    one is split into sentences; and again when that has grown by a part of itself, for whether a
    line break ends a sentence may show far behind it.
    """

    def __init__(self) -> None:
        self._searched = 0  # characters
        self._ended = 0  # where the last statement that has ended does
        self._due = math.inf  # the length of the text at which to look again

    def step(self, text: str) -> bool:
        """Whether further statements have ended.

        Args:
            text: all there is by now.
        """
        before, self._searched = self._searched, max(self._searched, len(text) - LOOK_AHEAD)
        # a mark and the space behind it may have come one after the other
        places = _MAY_END.finditer(text, max(0, before - 1), self._searched)
        if len(text) < self._due and not any(place.end() > before for place in places):
            return False
        began = self._ended
        self._due = len(text) + max(1, (len(text) - began) // _GROWTH)
        for (_, end), (following, _) in itertools.pairwise(split_sentences(text[began:])):
            enough = began + following + LOOK_AHEAD
            if enough > len(text):
                self._due = min(self._due, enough)
                break
            self._ended = began + end
        return self._ended > began
