"""Decides which stops inside one line end a sentence.

The decisions are local: the word before the stop, what closes after it, and the word that follows.
They follow the reasoning of Punkt (Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary
Detection", 2006: abbreviations, initials, ordinals, typical first words), with tables that ship
here in place of statistics of a training text, and add what Punkt has no notion of: the stops of
other scripts, quotations, markers of lists. Every look to the left or right is bounded, so time is
linear in the text. Knows no line breaks and no language.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from at2.text.abbreviations import (
    BEFORE_NUMBER,
    FINAL_BEFORE_CAPITAL,
    FINAL_BEFORE_STARTER,
    LABEL_NOUNS,
    MONTHS,
    NAME_PARTICLES,
    NEVER_FINAL,
    ORDINAL_CONTEXT,
    SENTENCE_STARTERS,
    SPEECH_VERBS,
    TIME_FOLLOWERS,
)

_SPACED = ".!?…‼⁇⁈⁉‽\u037e"
"""Stops that end a sentence only before white space."""
_UNSPACED = "。！？｡．।॥۔؟։።፧፨။។៕᠃᠉"
"""Stops that end a sentence whatever follows, for their scripts put no space there, or seldom."""
_GREEK_QUESTION = r"(?<=[\u0370-\u03ff\u1f00-\u1fff]);"
_STOP = re.compile(rf"\.(?:[ \u00a0]\.){{2,}}+|[{_SPACED}{_UNSPACED}]++|{_GREEK_QUESTION}")
_QUOTES = "\"'”’“‘»«›‹」』`"
_CLOSERS = re.compile(
    rf"(?:[{_QUOTES}*_\)\]}}】》〉）］｝]"
    r"|\[\d{1,3}\]"  # a reference
    r"|[ \u00a0\u202f]»(?=[\s.,;:!?]|\Z)"  # French puts a space before it
    r")*+"
)
_EMOJI = "\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\u200d\ufe0f\u20e3"
_TAIL = re.compile(rf"(?:\s*+(?:[{_EMOJI}]++|[:;=]-?[)(DP](?!\w)))*+")
_FOLLOWING = re.compile(r"\s*+(?P<lead>[\W_]{0,20}+)(?P<word>\w[\w'’]{0,40}+)?(?P<dot>\.)?")
_SPOKEN = re.compile(r"\s(\w{1,20})")
_BULLET = re.compile(r"(?:[-*+•‣⁃◦▪●○■□·>]|#{1,6})\s++")
_ITEM_NUMBER = re.compile(
    r"(?:\(?\d{1,3}(?:\.\)|[.)])"
    r"|\[(?:\.\.\.|…)\]|\((?:\.\.\.|…)\)"  # words left out
    r")\s++(?=(\w{0,40}))"
)
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7a3]")
_QUOTATIVE = re.compile("と|って|など|なんて|の|は|を|が|に|も|へ")
"""Japanese particles that take up a quotation: 「はい。」と言った is one sentence."""
_CONTINUES = ",;:，、；："
_OPERATORS = "=+<>/|&%^×≠≤≥"
_OPENERS = "\"'“”‘’«»„‚‹›([{¿¡*_–—/-"
_INNER_OPENERS = '([{/-–—“„«"'
_APOSTROPHE = re.compile("['’]")
_ROMAN = re.compile(r"[IVXLC]{2,}|[VXLC]")
_TIMES = frozenset(("a.m", "p.m", "am", "pm"))
_REACH = 40
"""Characters before a stop that are looked at; no abbreviation is longer."""


class _Following(NamedTuple):
    """What comes after a stop: signs and spaces, the first word, whether a dot ends that."""

    lead: str
    word: str
    dotted: bool
    end: int

    @property
    def is_lower(self) -> bool:
        return self.word[:1].islower() and not self.word[1:2].isupper()  # but iPhone

    @property
    def is_starter(self) -> bool:
        initial = self.dotted and len(self.word) == 1
        return not initial and self.word.lower().replace("’", "'") in SENTENCE_STARTERS


def sentences_of_line(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Pieces of `text[start:end]`, in order, cut after each stop that ends a sentence.

    Markers of lists and headings before a piece are left out. Pieces may be empty, have white
    space at their ends, or hold no letter.
    """
    first = _skip_markers(text, start, end, at_line_start=True)
    for stop in _STOP.finditer(text, start, end):
        if stop.start() <= first:  # part of a marker, or there is nothing before it to end
            continue
        last = _sentence_end(text, first, end, stop)
        if last is not None:
            yield first, last
            first = _skip_markers(text, last, end, at_line_start=False)
    yield first, end


def _skip_markers(text: str, start: int, end: int, *, at_line_start: bool) -> int:
    """The position after white space, bullets (at a line's start only) and an item's number."""
    while start < end and text[start].isspace():
        start += 1
    while at_line_start and (bullet := _BULLET.match(text, start, end)):
        start = bullet.end()
    number = _ITEM_NUMBER.match(text, start, end)
    if number and number.group(1).lower() not in MONTHS:
        return number.end()
    return start


def _sentence_end(text: str, first: int, end: int, stop: re.Match[str]) -> int | None:
    """Where the sentence that began at `first` ends if this stop ends it, else None."""
    run, at = stop.group(), stop.start()
    closed = _match_end(_CLOSERS, text, stop.end(), end)
    last = _match_end(_TAIL, text, closed, end)
    if last == end:
        return last
    if not set(run).isdisjoint(_UNSPACED):
        return None if _goes_on(text, stop, closed, last) else last
    if not text[last].isspace():
        before, after = text[at - 1], text[last]
        if run == "." or before == after or not (_CJK.match(before) and _CJK.match(after)):
            return None
        return None if _goes_on(text, stop, closed, last) else last

    following = _look_ahead(text, last, end)
    if following.lead[:1] and following.lead[0] in _CONTINUES + _OPERATORS:
        return None
    closers = text[stop.end() : closed]
    if run == ".":
        if following.is_lower:
            ends = not closers and _period_ends_before_lower(text, first, at)
        else:
            ends = _period_ends(text, first, at, closers, following)
    elif set(run) <= set(". \u00a0…"):
        ends = _ellipsis_ends(text, at, run, following)
    else:
        ends = _exclamation_ends(text, first, at, closers, following, end)
    return last if ends else None


def _match_end(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    match = pattern.match(text, start, end)
    return match.end() if match else start


def _look_ahead(text: str, start: int, end: int) -> _Following:
    match = _FOLLOWING.match(text, start, end)
    if match is None:
        return _Following("", "", False, start)
    return _Following(match["lead"], match["word"] or "", match["dot"] is not None, match.end())


def _goes_on(text: str, stop: re.Match[str], closed: int, last: int) -> bool:
    """Whether what follows a stop without a space goes on with the sentence."""
    if text[last] in _CONTINUES:
        return True
    if stop.group() == "．":  # a full-width decimal point
        return text[stop.start() - 1].isdigit() and text[last].isdigit()
    quoted = closed > stop.end() or "…" in stop.group()
    return quoted and _QUOTATIVE.match(text, last) is not None


def _exclamation_ends(
    text: str, first: int, at: int, closers: str, following: _Following, end: int
) -> bool:
    """Whether `!`, `?` or a Greek question mark at `at` ends the sentence."""
    if text[at - 1] in "([（" and closers:  # (!) and (?) comment on a word
        return False
    if following.is_lower:
        return not closers and text[first].islower()  # careless typing throughout
    if any(char in _QUOTES for char in closers):
        verb = _SPOKEN.match(text, following.end, end)
        return not (verb and verb.group(1) in SPEECH_VERBS)
    return True


def _ellipsis_ends(text: str, at: int, run: str, following: _Following) -> bool:
    """Whether dots at `at` end the sentence.

    They do not if they stand for words left out (` ... `) or for stammering (`I… I don't know`).
    A fourth dot is the sentence's own.
    """
    if following.is_lower:
        return False
    if run.count(".") < 4 and (text[at - 1].isspace() or text[at - 1] in "(["):
        return False
    tokens = text[max(0, at - _REACH) : at].split()
    return not tokens or tokens[-1].strip(_OPENERS).lower() != following.word.lower()


def _period_ends_before_lower(text: str, first: int, at: int) -> bool:
    """Whether `.` before a small letter ends the sentence.

    It does in careless typing. An unknown abbreviation looks the same, so the word must be a long
    one, or the sentence itself must have begun with a small letter.
    """
    tokens = _tokens_before(text, first, at)
    word = tokens[-1]
    if not word.isalpha() or _is_lettered(word) or any(map(_is_known, _keys(tokens))):
        return False
    return len(word) > 3 or text[first].islower()


def _period_ends(text: str, first: int, at: int, closers: str, following: _Following) -> bool:
    """Whether `.` before a capital, a digit or a letter without case ends the sentence."""
    tokens = _tokens_before(text, first, at)
    word, before = tokens[-1], tokens[-2] if len(tokens) > 1 else ""
    if _is_number(word):
        return _number_ends(word, before, following)
    if any(char in ")]" for char in closers) and text[first] not in "([":
        # "(saws, drills, etc.) Monday": the stop is the abbreviation's, not the sentence's
        return not any(map(_is_known, _keys(tokens)))

    digit = following.word[:1].isdigit()
    for key in _keys(tokens):
        if key in NEVER_FINAL:
            unit = word.islower() and _is_number(before)  # 5 ms, 3 см
            return unit and following.is_starter
        if key in BEFORE_NUMBER:
            return not (digit or _ROMAN.fullmatch(following.word))
        if key in FINAL_BEFORE_CAPITAL:
            time = key in _TIMES and following.word.lower() in TIME_FOLLOWERS
            return not (digit or time)
        if key in FINAL_BEFORE_STARTER:
            return following.is_starter
    if not _is_lettered(word):
        return True
    return first + len(word) < at and _initial_ends(word, before, following)  # not an item's `a.`


def _initial_ends(word: str, before: str, following: _Following) -> bool:
    """Whether `.` after one letter, or after dotted letters, ends the sentence."""
    if word == "я" or (word == "I" and before.islower()):  # words, not initials
        return True
    if len(word) == 1 and before.lower() in LABEL_NOUNS:
        return True
    particle = word.isupper() and following.word.lower() in NAME_PARTICLES
    return following.is_starter and not particle


def _number_ends(word: str, before: str, following: _Following) -> bool:
    """Whether `.` after a number ends the sentence: not in `3. Oktober`, `24. 12. 2020`, `: 1.`."""
    next_word = following.word
    if len(word) > 2:
        return True
    if before.endswith(":") or next_word.lower() in MONTHS:
        return False
    if next_word.isdigit():
        next_is_month = len(next_word) <= 2 and following.dotted
        next_is_year = len(next_word) == 4 and before[-1:] == "." and before[:-1].isdigit()
        return not (next_is_month or next_is_year)
    return before.lower() not in ORDINAL_CONTEXT or following.is_starter


def _tokens_before(text: str, first: int, at: int) -> list[str]:
    """The words that end at `at`; the last one without what opens before it."""
    tokens = text[max(first, at - _REACH) : at].split()
    if not tokens:
        return [""]
    word = tokens[-1].lstrip(_OPENERS)
    word = word[max(map(word.rfind, _INNER_OPENERS)) + 1 :]
    tail = _APOSTROPHE.split(word)[-1]
    if len(tail) > 1:  # l'avv. but not don't.
        word = tail
    return [*tokens[:-1], word]


def _keys(tokens: list[str]) -> Iterator[str]:
    """Entries of the tables that the words may be, longest first: for `z. B`, `z.b`, then `b`."""
    keys = [tokens[-1].lower()]
    for token in reversed(tokens[-4:-1]):
        token = token.lstrip(_OPENERS)
        if not token.endswith(".") or len(token) > 5:
            break
        keys.append(token.lower() + keys[-1])
    return reversed(keys)


def _is_known(key: str) -> bool:
    tables = (NEVER_FINAL, BEFORE_NUMBER, FINAL_BEFORE_CAPITAL, FINAL_BEFORE_STARTER)
    return any(key in table for table in tables)


def _is_number(word: str) -> bool:
    return word.replace(".", "").replace(",", "").isdigit()


def _is_lettered(word: str) -> bool:
    """Whether a word is one letter or dotted letters: `J`, `U.S`."""
    return all(len(part) == 1 and part.isalpha() for part in word.split("."))
