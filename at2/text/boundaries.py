"""Cuts a passage into sentences: finds its stops, and asks the rules which of them end one.

Each stop is asked about by the named rules of its kind, in the order in which they stand in
`at2.text.boundary_rules`; the first one that knows decides, and without one the stop ends the
sentence. Every look to the left or right is bounded, so time is linear in the text. Knows no lines.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

import regex

from at2.text.boundary_rules import RULES, Rule
from at2.text.markup import ADDRESS, BREAK_TAG, CODE
from at2.text.stops import COUNTED_BY_ORDINALS, QUOTES, SPACED, Stop

_UNSPACED = r"[\p{Sentence_Terminal}।॥։።፧፨᠃᠉།༎༏༐༑༔׃]"
"""Stops that end a sentence whatever follows, for their scripts put no space there, or seldom."""

_COMMAS = "\u061e\u104a\u1b5e"
"""Unicode counts these among them, but they part clauses."""

_STOP = rf"""
    \.(?:[ \u00a0]\.){{2,}}+                              # . . .
    | (?:[{SPACED}]|(?![\x00-\x7f{_COMMAS}]){_UNSPACED})++
    | (?<=[\u0370-\u03ff\u1f00-\u1fff]);                  # a Greek question mark
    | (?<=[\u0900-\u0dff])[ ]?\|{{1,2}}+(?!\S)            # a bar typed for a danda
"""

_PAIRED = '"“‘„‚”«»‹›'

_SCANNED = regex.compile(
    rf"(?P<skip>{CODE}|{ADDRESS})|(?P<tag>{BREAK_TAG})|(?P<quote>[{_PAIRED}])|(?P<stop>{_STOP})",
    regex.VERBOSE,
)

_REFERENCE = r"\[(?:[^\[\].!?]|pp?\.[ ]){1,30}\]"

_SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹"

_INLINE_TAG = "</(?:a|b|i|u|s|q|em|strong|span|code|mark|small|su[bp]|font|cite|del|ins)>"

_CLOSER = re.compile(
    rf"[{''.join(sorted(QUOTES))}*_\)\]}}】》〉）］｝†‡]"
    rf"|[{_SUPERSCRIPT}](?:[{_SUPERSCRIPT},–-]{{0,20}}[{_SUPERSCRIPT}])?"
    rf"|{_REFERENCE}(?:[–,-](?=\[))?|{_INLINE_TAG}|<sup>{_REFERENCE}</sup>"
    r"|[ \u00a0\u202f]»(?=[\s.,;:!?]|\Z)"  # French puts a space before it
)

_EMOJI = "\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\u200d\ufe0f\u20e3"

_TAIL = re.compile(rf"(?:\s*+(?:[{_EMOJI}]++|[:;=]-?[)(DP](?!\w)))*+")

# What comes before a sentence

_BULLET = re.compile(r"(?:[-*+•‣⁃◦▪●○■□·>]|#{1,6})\s++")

_ITEM_NUMBER = re.compile(
    r"(?:\(?(?P<number>\d{1,3})(?:\.\)|[.)])"
    r"|\[(?:\.\.\.|…)\]|\((?:\.\.\.|…)\)"  # words left out
    r")\s++(?=(?P<next>\w{0,40}))"
)

_NUMBERS_OF_ITEMS = re.compile(
    r"""(?:\A\s*+|(?<=[.!?:;…。！？)\]"”»]\s)|(?<=[。！？]))\(?(\d{1,3})(?:\.\)|[.)])(?=\s)"""
)

_KINDS = ("glued", "script", "ellipsis", "mark", "period")


# The scan


class _Quotes:
    """Which quotation marks are open. Where one mark opens in one language and closes in another,
    that tells what it does."""

    def __init__(self, low: bool = False, angle: str = "", straight: bool = False) -> None:
        self._low = low  # „ or ‚ is open
        self._angle = angle  # « or » is open, this one
        self._straight = straight  # a " is open

    def see(self, mark: str) -> None:
        """Go past a mark."""
        if mark in "„‚":
            self._low = True
        elif mark in "“‘”":
            self._low = False
        elif mark in "«»‹›":
            self._angle = "" if self._angle else mark
        elif mark == '"':
            self._straight = not self._straight

    def _opens(self, mark: str, follower: str) -> bool:
        """Whether a mark right behind a stop opens a quotation, `follower` being the next one."""
        if mark in "“‘":
            is_open = self._low
        elif mark in "«»‹›":
            is_open = self._angle != ""
        elif mark == '"':
            is_open = self._straight
        else:
            return False
        return not is_open and (follower.isalnum() or follower in "¿¡")

    def closed(self, text: str, start: int, end: int) -> int:
        """The position after all that closes at `start`."""
        ahead = _Quotes(self._low, self._angle, self._straight)
        while closer := _CLOSER.match(text, start, end):
            mark = text[closer.end() - 1]
            follower = text[closer.end()] if closer.end() < end else " "
            if ahead._opens(mark, follower):
                break
            ahead.see(mark)
            start = closer.end()
        return start


def sentences_of_passage(
    text: str, start: int, end: int, rules: tuple[Rule, ...] = RULES
) -> Iterator[tuple[int, int]]:
    """Pieces of `text[start:end]`, in order, cut after each stop that ends a sentence and at tags
    that break the line.

    Markers of lists and headings before a piece are left out. Pieces may be empty, have white
    space at their ends, or hold no letter.
    """
    rules_of = _by_kind(rules)
    quotes, in_cell = _Quotes(), False
    numbers: frozenset[int] | None = None
    first = _skip_markers(text, start, end)
    for match in _SCANNED.finditer(text, start, end):
        kind, at = match.lastgroup, match.start()
        if kind == "quote":
            quotes.see(match.group())
        elif kind == "tag":
            in_cell = match["cell"] is not None or (in_cell and match["row"] is None)
            if not in_cell and _breaks_line(text, match, start, end):
                yield first, max(first, at)
                first = _skip_markers(text, match.end(), end)
        elif kind == "stop" and at > first and not in_cell:  # else it is part of a marker or a row
            closed = quotes.closed(text, match.end(), end)
            last = _match_end(_TAIL, text, closed, end)
            if last == end or _ends(
                Stop(text, first, at, match.group(), closed, last, end), rules_of
            ):
                yield first, last
                if numbers is None:
                    numbers = _numbers_of_items(text, start, end)
                first = _skip_markers(text, last, end, numbers)
    yield first, end


_RulesOf = Mapping[str, Sequence[Rule]]


@cache
def _by_kind(rules: tuple[Rule, ...]) -> _RulesOf:
    return {kind: [rule for rule in rules if rule.kind == kind] for kind in _KINDS}


def _ends(stop: Stop, rules_of: _RulesOf) -> bool:
    """Whether the sentence ends at a stop that is not the passage's last."""
    for rule in rules_of[stop.kind]:
        decision = rule.decide(stop)
        if decision is not None:
            return decision
    return True


def _breaks_line(text: str, tag: "regex.Match[str]", start: int, end: int) -> bool:
    """Whether a tag is markup here. In `The <br> tag is old.` it is only mentioned."""
    before = text[max(start, tag.start() - 1) : tag.start()]
    after = text[tag.end() : min(tag.end() + 2, end)]
    return not (before.isspace() and after[:1].isspace() and after[1:].islower())


def _numbers_of_items(text: str, start: int, end: int) -> frozenset[int]:
    """Numbers that may be those of items, for they stand where a sentence begins."""
    return frozenset(map(int, _NUMBERS_OF_ITEMS.findall(text[start:end])))


def _skip_markers(text: str, start: int, end: int, numbers: frozenset[int] | None = None) -> int:
    """The position after white space, bullets and an item's number.

    Args:
        numbers: inside a line, the numbers that occur like those of items: one alone is none, and
            a sign there is no bullet.
    """
    while start < end and text[start].isspace():
        start += 1
    while numbers is None and (bullet := _BULLET.match(text, start, end)):
        start = bullet.end()
    item = _ITEM_NUMBER.match(text, start, end)
    if item is None or item["next"].lower() in COUNTED_BY_ORDINALS:
        return start
    if numbers is not None and item["number"] is not None:
        number = int(item["number"])
        if not numbers & {number - 1, number + 1}:
            return start
    return item.end()


def _match_end(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    match = pattern.match(text, start, end)
    return match.end() if match else start
