"""A stop that may end a sentence, and what stands around it: signs, words, abbreviations.

Every look to the left or right is bounded. Knows no rules.
"""

import re
from typing import NamedTuple

from at2.text.abbreviations import (
    BEFORE_NUMBER,
    CITATION_WORDS,
    FINAL_BEFORE_CAPITAL,
    FINAL_BEFORE_STARTER,
    MONTHS,
    NEVER_FINAL,
    ORDINAL_NOUNS,
    SENTENCE_STARTERS,
)

SPACED = ".!?…‼⁇⁈⁉‽\u037e"
"""Stops that end a sentence only before white space."""

_SPACED_SET = frozenset(SPACED)

_ELLIPSIS_SET = frozenset(". \u00a0…")

QUOTES = frozenset("\"'”’“‘»«›‹」』")
"""Marks that close a quotation."""

_FOLLOWING = re.compile(r"\s*+(?P<lead>[\W_]{0,20}+)(?P<word>\w[\w'’]{0,40}+)?(?P<dot>\.)?")

OPENERS = "\"'“”‘’«»„‚‹›([{¿¡*_–—/-"
"""Signs that may stand before a word."""

_INNER_OPENER = re.compile(r'[(\[{/–—“„«"-]')

_APOSTROPHE = re.compile("['’]")

COUNTED_BY_ORDINALS = MONTHS | ORDINAL_NOUNS
"""Nouns before which a number with a dot is an ordinal, as in German."""

_ASKING_FOR_WORDS = ("period", "glued")

REACH = 40
"""Characters before a stop that are looked at; no abbreviation is longer."""


class _Following(NamedTuple):
    """What comes after a stop: signs and spaces, the first word, whether a dot ends that."""

    lead: str
    word: str
    dotted: bool

    @property
    def is_lower(self) -> bool:
        return self.word[:1].islower() and not self.word[1:2].isupper()  # but iPhone

    @property
    def is_starter(self) -> bool:
        shortened = self.dotted and (len(self.word) == 1 or self.word.lower() in BEFORE_NUMBER)
        return not shortened and self.word.lower().replace("’", "'") in SENTENCE_STARTERS

    @property
    def is_digit(self) -> bool:
        return self.word[:1].isdigit()


class Stop:
    """A run of stops, and what the rules look at around it.

    Attributes:
        text: the whole text.
        first: where the sentence began that it may end.
        at: its first character.
        run: its characters.
        closers: quotes, brackets and references that close after it.
        last: the position after these and after emoji, where the sentence ends if it ends here.
        end: of the passage.
        kind: which rules are asked.
        following: what comes after it.
        tokens: the words that end at it; the last one without what opens before it.
        word, before: the last of these and the one before.
        keys: entries of the tables that the words may be, longest first: of `z. B.`, `z.b` and `b`.
    """

    def __init__(
        self, text: str, first: int, at: int, run: str, closed: int, last: int, end: int
    ) -> None:
        self.text = text
        self.first = first
        self.at = at
        self.run = run
        self.closers = text[at + len(run) : closed]
        self.last = last
        self.end = end
        self.kind = _kind_of(run, text[last])
        self.following = _look_ahead(text, last, end)
        self.tokens = _tokens_before(text, first, at) if self.kind in _ASKING_FOR_WORDS else [""]
        self.word = self.tokens[-1]
        self.before = self.tokens[-2] if len(self.tokens) > 1 else ""
        self.keys = _keys(self.tokens)

    @property
    def quoted(self) -> bool:
        """Whether a quotation closes after it."""
        return self.closers != "" and not QUOTES.isdisjoint(self.closers)

    @property
    def leaves_open(self) -> bool:
        """Whether more of the sentence may follow even after a mark that needs no space."""
        return self.quoted or "…" in self.run

    @property
    def known(self) -> bool:
        """Whether the word is an abbreviation of a table."""
        tables = (NEVER_FINAL, BEFORE_NUMBER, FINAL_BEFORE_CAPITAL, FINAL_BEFORE_STARTER)
        return self.cited or any(not table.isdisjoint(self.keys) for table in tables)

    @property
    def cited(self) -> bool:
        """Whether the word is part of the name of a court, a law or a journal."""
        return self.word.lower() in CITATION_WORDS

    @property
    def cites_before(self) -> bool:
        """Whether the word before last is part of such a name: `Fed. R. Bankr.`"""
        earlier = self.tokens[-3] if len(self.tokens) > 2 else ""
        return earlier.endswith(".") and earlier[:-1].lower() in CITATION_WORDS

    @property
    def is_first_word(self) -> bool:
        """Whether the sentence would be this word alone."""
        return self.first + len(self.word) >= self.at


def _kind_of(run: str, follower: str) -> str:
    only_spaced = _SPACED_SET.issuperset(run)
    if only_spaced and not follower.isspace():
        return "glued"
    if run == ".":
        return "period"
    if _ELLIPSIS_SET.issuperset(run):
        return "ellipsis"
    return "mark" if only_spaced or run == ";" else "script"


def _look_ahead(text: str, start: int, end: int) -> _Following:
    match = _FOLLOWING.match(text, start, end)
    if match is None:
        return _Following("", "", False)
    lead, word, dot = match.groups()
    return _Following(lead, word or "", dot is not None)


def _tokens_before(text: str, first: int, at: int) -> list[str]:
    tokens = text[max(first, at - REACH) : at].split()
    if not tokens:
        return [""]
    word = tokens[-1]
    if not word.isalnum():
        word = word.lstrip(OPENERS)
        word = _INNER_OPENER.split(word)[-1]
        tail = _APOSTROPHE.split(word)[-1]
        if len(tail) > 1:  # l'avv. but not don't.
            word = tail
        tokens[-1] = word
    return tokens


def _keys(tokens: list[str]) -> list[str]:
    keys = [tokens[-1].lower()]
    for token in reversed(tokens[-4:-1]):
        token = token.lstrip(OPENERS)
        if not token.endswith(".") or len(token) > 5:
            break
        keys.append(token.lower() + keys[-1])
    return keys[::-1]
