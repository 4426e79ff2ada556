"""Characters and tokens: which token covers which characters, and back.

Knows ranges only: nothing of tokenizers, models or prompts. All ranges are half-open,
`(start, end)`; characters are Unicode code points.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from at2.errors import InputError
from at2.ranges import CharRange, TokenRange


@dataclass(frozen=True)
class TokenizedText:
    """A text, its token ids, and the characters that each token covers.

    Attributes:
        text: the text.
        ids: token ids.
        ranges: per token its characters, in order. Tokens that are parts of one character share its
            range; a range is empty for a token that shows no text.
    """

    text: str
    ids: tuple[int, ...]
    ranges: tuple[CharRange, ...]

    @cached_property
    def _starts(self) -> list[int]:
        return [start for start, _ in self.ranges]

    @cached_property
    def _ends(self) -> list[int]:
        return [end for _, end in self.ranges]

    def tokens_overlapping(self, start: int, end: int) -> TokenRange:
        """The tokens that share at least one character with `[start, end)`.

        Returns:
            The smallest token range with all of them; `(k, k)` if there is none, where `k` is the
            number of tokens that end at or before `start`.
        """
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end) if start < end else first
        while first < last and self.ranges[first][0] == self.ranges[first][1]:
            first += 1
        while first < last and self.ranges[last - 1][0] == self.ranges[last - 1][1]:
            last -= 1
        return first, max(first, last)

    def text_range(self, first: int, last: int) -> CharRange:
        """The characters of tokens `first … last - 1`; empty for an empty token range."""
        if first >= last:
            position = self.ranges[first][0] if first < len(self.ranges) else len(self.text)
            return position, position
        return self.ranges[first][0], self.ranges[last - 1][1]

    def cut(self, characters: int | None) -> "TokenizedText":
        """The first so many characters, and their tokens; all of it for None."""
        if characters is None or characters >= len(self.text):
            return self
        count = bisect_left(self._starts, characters)
        ranges = tuple((start, min(end, characters)) for start, end in self.ranges[:count])
        return TokenizedText(self.text[:characters], self.ids[:count], ranges)


def assign_tokens(
    text: str, token_ranges: Sequence[CharRange], source_ranges: Sequence[CharRange]
) -> list[TokenRange]:
    """Give every token to at most one source, so that scores of sources add up.

    A token belongs to the source that contains its first character that is not white space and lies
    in any source; a token with only white space in sources goes by its first such character.

    Args:
        text: the text that all ranges refer to.
        token_ranges: characters of each token, in order.
        source_ranges: characters of each source, disjoint, in any order.

    Returns:
        Per source a token range; no two share a token. A source without one gets `(k, k)`.

    Raises:
        InputError: two sources overlap, or one is reversed or outside the text.
    """
    order = sorted(range(len(source_ranges)), key=lambda i: source_ranges[i])
    _check_disjoint([source_ranges[i] for i in order], len(text))
    order = [i for i in order if source_ranges[i][0] < source_ranges[i][1]]
    starts = [source_ranges[i][0] for i in order]
    ends = [source_ranges[i][1] for i in order]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for token, (start, end) in enumerate(token_ranges):
        source = _source_of(text, start, end, starts, ends)
        if source is not None:
            first.setdefault(source, token)
            last[source] = token + 1
    assigned = {order[source]: (first[source], last[source]) for source in first}
    token_ends = [end for _, end in token_ranges]
    return [
        assigned[i] if i in assigned else (bisect_right(token_ends, start),) * 2
        for i, (start, _) in enumerate(source_ranges)
    ]


def _source_of(text: str, start: int, end: int, starts: list[int], ends: list[int]) -> int | None:
    """The source (by its place in the sorted lists) of the token with characters `[start, end)`."""
    fallback = None
    position = start
    source = bisect_right(ends, start)  # the first source that ends after the token's start
    while position < end and source < len(starts):
        position = max(position, starts[source])
        stop = min(end, ends[source])
        if position < stop:
            if not text[position:stop].isspace():
                return source
            fallback = source if fallback is None else fallback
        position = max(position, stop)
        source += 1
    return fallback


def _check_disjoint(ranges: list[CharRange], length: int) -> None:
    previous = 0
    for start, end in ranges:
        if not 0 <= start <= end <= length:
            raise InputError(f"source range ({start}, {end}) is not within a text of {length}")
        if start < previous:
            raise InputError(f"source range ({start}, {end}) overlaps another source")
        previous = max(previous, end)
