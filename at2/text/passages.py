"""Cuts a text into passages: what no sentence goes beyond.

A passage is a line, or several lines of a text that was hard-wrapped at a column, where it is clear
that they go on. Lines of code and rows of tables are passages that are one piece whatever stops are
in them. Fences of code are in none, nor is an item's number alone on a line. What a line is depends
only on the lines around it up to the next blank ones (and on a fence that stands open before it).
"""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import regex

from at2.text.abbreviations import BEFORE_NUMBER, CONNECTORS, NEVER_FINAL
from at2.text.markup import BREAK_TAG


class Passage(NamedTuple):
    """Characters `start … end - 1` of a text; `whole` if they are one piece."""

    start: int
    end: int
    whole: bool


class _Line:
    """A line without what is blank at its end, and what the rules below look at."""

    def __init__(self, start: int, text: str) -> None:
        self.start = start
        self.text = text.rstrip()
        self.content = self.text.lstrip()

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @cached_property
    def words(self) -> list[str]:
        return self.text.split()

    @cached_property
    def first_letter(self) -> str:
        """The first character after quotation marks and brackets."""
        return self.content.lstrip("\"'“‘„«»([*_")[:1]

    @property
    def is_caseless(self) -> bool:
        """Whether it begins with a letter that is neither large nor small."""
        letter = self.first_letter
        return letter.isalpha() and not letter.islower() and not letter.isupper()

    @cached_property
    def is_stopped(self) -> bool:
        """Whether it ends in a stop or a colon."""
        return _STOPPED.search(self.text, max(0, len(self.text) - 12)) is not None


_FENCE = re.compile(r"(?:[ \t]|>)*(?P<fence>`{3,}+|~{3,}+)(?P<info>[^`]*)")
_STOPPED = regex.compile(r"[.!?…:;\p{Sentence_Terminal}།׃][\"'”’“‘»«)\]*_」』）\d]{0,10}\Z")
_INSIDE_STOP = regex.compile(r"[!?…\p{Sentence_Terminal}།׃](?:[\W\d]|\Z)|\.(?:\W|\Z)")
_MARKER = re.compile(
    r"(?:[-*+•‣⁃◦▪●○■□·>–—|]|#{1,6}"
    r"|\(?(?P<number>\d{1,3})(?:\.\)|[.)])"
    r"|\(?(?:[a-zA-Z]|[ivx]{1,4}|[IVX]{1,4})(?:\.\)|[.)]))(?:\s|\Z)"
)
_ONLY_NUMBER = re.compile(r"\(?\d{1,3}(?:\.\)|[.)])")
_OPENING_TAG = regex.compile(BREAK_TAG, regex.VERBOSE)
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")

_RULE_OF_TABLE = re.compile(
    r"[ \t]*+\|?+(?:[ \t]*+:?+-{2,}+:?+[ \t]*+\|){1,}+(?:[ \t]*+:?+-++:?+)?+[ \t]*+"  # |---|:--:|
)
_BAR = re.compile("(?<![\u0900-\u0dff])(?<![\u0900-\u0dff] )[|]")  # a danda is no bar
_SEPARATORS = (
    _BAR,
    re.compile(r"\t(?=.)"),
    re.compile(r"[,;](?!\s)"),
    re.compile(r"(?<=[^\s.!?:]) {3,}+(?=\S)"),
)
"""What parts the cells of a row: bars, tabs, the commas of CSV, wide gaps."""
_BARS = 2
"""Bars in a line that make it a row on its own."""

_MIN_COLUMN = 40
"""Nobody wraps prose at fewer characters."""
_WIDE_COLUMN = 55
"""Items of lists are seldom so long: a line of this length whose next line begins small was
wrapped."""
_MIN_WORDS = 3
"""Fewer in a line are a label or an item."""


def passages(text: str) -> Iterator[Passage]:
    """The passages of a text, in order, without white space at their ends. Together they hold all
    that is visible but fences and lone numbers of items."""
    block: list[_Line] = []
    fence = ""
    start = 0
    for raw in text.splitlines(keepends=True):
        line = _Line(start, raw)
        start += len(raw)
        mark = _FENCE.fullmatch(line.text)
        is_fence = mark is not None and (
            not fence or (mark["fence"].startswith(fence) and not mark["info"].strip())
        )
        if fence or is_fence or not line.content or raw.endswith("\u2029"):
            if line.content and not fence and not is_fence:
                block.append(line)
            yield from _of_block(block)
            block = []
            if mark is not None and is_fence:
                fence = "" if fence else mark["fence"]
            elif fence and line.content:
                yield _passage([line], whole=True)
        else:
            block.append(line)
    yield from _of_block(block)


def _passage(lines: Sequence[_Line], *, whole: bool = False) -> Passage:
    first = lines[0]
    return Passage(first.end - len(first.content), lines[-1].end, whole)


def _of_block(block: list[_Line]) -> Iterator[Passage]:
    """The passages of lines without a blank one between them."""
    rows = _rows(block)
    column = max((len(line.text) for line in block), default=0)
    group: list[_Line] = []
    numbers: set[int] = set()
    for place, line in enumerate(block):
        marker = _MARKER.match(line.content)
        number = int(marker["number"]) if marker and marker["number"] else None
        starts_passage = (
            rows[place]
            or _OPENING_TAG.match(line.content)
            or (marker and (number is None or number == 1 or number - 1 in numbers))
            or not any(map(str.isalnum, line.content))
        )
        if starts_passage or (group and group[0].content.startswith("#")):
            yield from _of_lines(group, column)
            group = []
        if number is not None and (starts_passage or not group):
            numbers.add(number)
        if rows[place]:
            yield _passage([line], whole=True)
        elif not _numbers_the_next(block, place):
            group.append(line)
    yield from _of_lines(group, column)


def _numbers_the_next(block: list[_Line], place: int) -> bool:
    """Whether a line is an item's number and nothing else, with the item in the line below."""
    if not _ONLY_NUMBER.fullmatch(block[place].content) or place + 1 == len(block):
        return False
    return block[place + 1].first_letter.isalpha()


def _rows(block: list[_Line]) -> list[bool]:
    """Which lines are rows of a table."""
    if any(_RULE_OF_TABLE.fullmatch(line.text) for line in block):
        return ["|" in line.text for line in block]
    if len(block) > 1:
        for separator in _SEPARATORS:
            counts = {len(separator.findall(line.content)) for line in block}
            if len(counts) == 1 and counts.pop() >= (2 if separator is _SEPARATORS[2] else 1):
                return [True] * len(block)
    return [_is_row(line) for line in block]


def _is_row(line: _Line) -> bool:
    """Whether a line is a row whatever stands around it."""
    if _OPENING_TAG.match(line.content):  # <|think|>
        return False
    bars = line.content.count("|") if line.content.startswith("|") else len(_BAR.findall(line.text))
    return bars >= _BARS or line.content.count("\t") >= _BARS


def _of_lines(group: list[_Line], column: int) -> Iterator[Passage]:
    """The passages of lines of prose, of which only the first may bear a marker."""
    if not group:
        return
    full = [len(a.text) + 1 + _first_word(b) > column for a, b in pairwise(group)]
    filled = _is_filled(group, full) and column >= _MIN_COLUMN
    stops = _stops_from(group)
    joined = [group[0]]
    for place, (line, following) in enumerate(pairwise(group)):
        if filled or _goes_on(line, following, full[place], column, stops[place + 1]):
            joined.append(following)
        else:
            yield _passage(joined)
            joined = [following]
    yield _passage(joined)


def _first_word(line: _Line) -> int:
    """Length of what could have stood in the line before; one character of scripts without
    spaces."""
    return 1 if _CJK.match(line.content) else len(line.words[0])


def _is_filled(group: list[_Line], full: list[bool]) -> bool:
    """Whether every line but the last is as long as the column lets it be, which no list, poem or
    log is by chance if there are three and some go on with a small letter."""
    small = sum(line.first_letter.islower() for line in group[1:])
    prose = all(len(line.words) > _MIN_WORDS for line in group[:-1])
    return len(group) >= 3 and all(full) and prose and 4 * small >= len(full)


def _stops_from(group: list[_Line]) -> list[bool]:
    """Per line whether a sentence may end in it or in a later one."""
    has_stop, stops = False, []
    for line in reversed(group):
        has_stop = has_stop or _INSIDE_STOP.search(line.text) is not None
        stops.append(has_stop)
    return stops[::-1]


def _goes_on(line: _Line, following: _Line, full: bool, column: int, stopped_later: bool) -> bool:
    """Whether a line clearly goes on in the next one."""
    small = following.first_letter.islower()
    word = line.words[-1].strip("\"'“”‘’«»„([*_")
    last = word.lower()
    if line.text.endswith(":") or following.content[:1] in "<":
        return False
    if _CJK.match(following.content):
        return not line.is_stopped and stopped_later and full and column >= _MIN_COLUMN / 2
    if len(line.words) < _MIN_WORDS:
        return False
    if last.endswith("."):  # Dr. | Smith, No. | 5
        title = last[:-1] in NEVER_FINAL and following.first_letter.isalpha()
        return (
            title
            or (last[:-1] in BEFORE_NUMBER and following.first_letter.isdigit())
            or (small and full and column >= _MIN_COLUMN)
        )
    connects = last in CONNECTORS and not (len(word) == 1 and word.isupper())  # "pier A"
    if connects or (small and last[-1:] in ",-–—­"):
        return following.first_letter.isalnum()
    if line.is_stopped:
        return small and full and column >= _MIN_COLUMN
    if small:
        return stopped_later or (full and column >= _WIDE_COLUMN)
    caseless = following.is_caseless or following.first_letter.isdigit()
    return caseless and stopped_later and full and column >= _MIN_COLUMN
