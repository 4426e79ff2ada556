"""Decides which stops of a passage end a sentence.

The decisions are local: the word before the stop, what closes after it, and the word that follows.
They follow the reasoning of Punkt (Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary
Detection", 2006: abbreviations, initials, ordinals, typical first words), with tables that ship
here in place of statistics of a training text, and add what Punkt has no notion of: the stops of
other scripts, quotations, addresses, code.

Each stop is asked about by the named rules of its kind, in the order in which they stand here; the
first one that knows decides, and without one the stop ends the sentence. Every look to the left or
right is bounded, so time is linear in the text. Knows no lines and no language.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

import regex

from at2.text.abbreviations import (
    BEFORE_NUMBER,
    CITATION_WORDS,
    COMPOUND_ENDINGS,
    COUNTED,
    FINAL_BEFORE_CAPITAL,
    FINAL_BEFORE_STARTER,
    LABEL_NOUNS,
    MONTHS,
    NAME_PARTICLES,
    NEVER_FINAL,
    ORDINAL_CONTEXT,
    ORDINAL_NOUNS,
    SENTENCE_STARTERS,
    SPEECH_VERBS,
    TIME_FOLLOWERS,
    TITLED_PARTS,
)
from at2.text.markup import ADDRESS, BREAK_TAG, CODE

# What a passage is scanned for

_SPACED = ".!?…‼⁇⁈⁉‽\u037e"
"""Stops that end a sentence only before white space."""
_UNSPACED = r"[\p{Sentence_Terminal}।॥։።፧፨᠃᠉།༎༏༐༑༔׃]"
"""Stops that end a sentence whatever follows, for their scripts put no space there, or seldom."""
_COMMAS = "\u061e\u104a\u1b5e"
"""Unicode counts these among them, but they part clauses."""
_STOP = rf"""
    \.(?:[ \u00a0]\.){{2,}}+                              # . . .
    | (?:[{_SPACED}]|(?![\x00-\x7f{_COMMAS}]){_UNSPACED})++
    | (?<=[\u0370-\u03ff\u1f00-\u1fff]);                  # a Greek question mark
    | (?<=[\u0900-\u0dff])[ ]?\|{{1,2}}+(?!\S)            # a bar typed for a danda
"""
_SPACED_SET = frozenset(_SPACED)
_ELLIPSIS_SET = frozenset(". \u00a0…")
_PAIRED = '"“‘„‚”«»‹›'
_SCANNED = regex.compile(
    rf"(?P<skip>{CODE}|{ADDRESS})|(?P<tag>{BREAK_TAG})|(?P<quote>[{_PAIRED}])|(?P<stop>{_STOP})",
    regex.VERBOSE,
)

# What follows a stop

_QUOTES = frozenset("\"'”’“‘»«›‹」』")
_REFERENCE = r"\[(?:[^\[\].!?]|pp?\.[ ]){1,30}\]"
_SUPERSCRIPT = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_INLINE_TAG = "</(?:a|b|i|u|s|q|em|strong|span|code|mark|small|su[bp]|font|cite|del|ins)>"
_CLOSER = re.compile(
    rf"[{''.join(sorted(_QUOTES))}*_\)\]}}】》〉）］｝†‡]"
    rf"|[{_SUPERSCRIPT}](?:[{_SUPERSCRIPT},–-]{{0,20}}[{_SUPERSCRIPT}])?"
    rf"|{_REFERENCE}(?:[–,-](?=\[))?|{_INLINE_TAG}|<sup>{_REFERENCE}</sup>"
    r"|[ \u00a0\u202f]»(?=[\s.,;:!?]|\Z)"  # French puts a space before it
)
_EMOJI = "\U0001f000-\U0001faff\u2600-\u27bf\u2b50\u2b55\u200d\ufe0f\u20e3"
_TAIL = re.compile(rf"(?:\s*+(?:[{_EMOJI}]++|[:;=]-?[)(DP](?!\w)))*+")
_FOLLOWING = re.compile(r"\s*+(?P<lead>[\W_]{0,20}+)(?P<word>\w[\w'’]{0,40}+)?(?P<dot>\.)?")
_CONTINUES = ",;:，、；："
_OPERATORS = "=+<>/|&%^×≠≤≥"
_SPEAKER = regex.compile(
    r"""\s++(?:\p{Lu}[\w'’-]{0,20}+\.?\s){1,4}?  # Tom, Mr. Hale, Mary Ann
    (?:\p{Ll}{1,15}ly\s)?(?P<verb>\p{Ll}{1,15})\b""",
    regex.VERBOSE,
)
_TAKEN_UP = regex.compile(
    r"""と|って|など|なんて|[のはをがにもへ]                # Japanese particles that take it up
    | [^\s\p{P}]{0,8}(?:言っ|言い|答え|叫ん|叫び|尋ね|聞い|つぶや|ささや)
    | (?:(?![没沒不])\p{Han}){0,6}?
      (?:(?<![听聽])[说說](?![明法服])|[问問](?![题題])|[喊嚷吼]|回答|[笑答叹嘆]道)(?!\w{0,3}[：:])
    | \s?+(?:\S{1,15}\s){0,2}(?:말했|말하|물었|외쳤|대답했|소리쳤)
    | \s?+(?:\S{1,15}\s){0,2}(?:कहा|पूछा|बोला|बोली|बोले|चिल्लाया|चिल्लाई)(?!\w)
    | \s?+(?:قال|قالت|سأل|سألت|أجاب|أجابت|صاح|صاحت|گفت|پرسید)(?!\w)
    | \s?+(?:אמר|אמרה|שאל|שאלה|ענה|ענתה|צעק|צעקה)(?!\w)""",
    regex.VERBOSE,
)
"""What makes a quotation part of the sentence after it, in scripts without small letters."""

# What comes before one

_BULLET = re.compile(r"(?:[-*+•‣⁃◦▪●○■□·>]|#{1,6})\s++")
_ITEM_NUMBER = re.compile(
    r"(?:\(?(?P<number>\d{1,3})(?:\.\)|[.)])"
    r"|\[(?:\.\.\.|…)\]|\((?:\.\.\.|…)\)"  # words left out
    r")\s++(?=(?P<next>\w{0,40}))"
)
_NUMBERS_OF_ITEMS = re.compile(
    r"""(?:\A\s*+|(?<=[.!?:;…。！？)\]"”»]\s)|(?<=[。！？]))\(?(\d{1,3})(?:\.\)|[.)])(?=\s)"""
)
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7a3]")
_GLUED = regex.compile(
    r"""["“„«‘(¿¡]?(?P<word>\p{Lu}(?:[\p{Ll}'’]{1,40}+|(?=\s)))(?=[\s,;:!?…"”’)]|\.(?!\w)|\Z)"""
)
_LETTERS = regex.compile(r"[^\W\d_]{2,}+")
_AND = frozenset(
    ("and", "or", "to", "und", "oder", "bis", "et", "ou", "y", "o", "is", "was", "ist", "war", "=")
)
_FINAL_SYLLABLES = "다요죠까니네"
"""Korean sentences end in these."""
_OPENERS = "\"'“”‘’«»„‚‹›([{¿¡*_–—/-"
_INNER_OPENER = re.compile(r'[(\[{/–—“„«"-]')
_APOSTROPHE = re.compile("['’]")
_ROMAN = re.compile(
    r"(?:X{0,3}(?:IX|IV|V?I{1,3}|V)|X{1,3}|XL|LX{0,3}|C)|(?:ix|iv|vi{0,3}|i{1,3}|xi{0,3})"
)
_ITEM_LABEL = re.compile(r"\w{1,3}(?:\.\w{1,3}){1,4}")
_VOWELLESS = regex.compile(r"(?!H+m)\p{Lu}[b-df-hj-np-tv-xzßç]{1,4}+")
_COUNTED_BY_ORDINALS = MONTHS | ORDINAL_NOUNS
_ASKING_FOR_WORDS = ("period", "glued")
_KINDS = ("glued", "script", "ellipsis", "mark", "period")
_TIMES = frozenset(("a.m", "p.m", "am", "pm"))
_REACH = 40
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
        return self.closers != "" and not _QUOTES.isdisjoint(self.closers)

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
    tokens = text[max(first, at - _REACH) : at].split()
    if not tokens:
        return [""]
    word = tokens[-1]
    if not word.isalnum():
        word = word.lstrip(_OPENERS)
        word = _INNER_OPENER.split(word)[-1]
        tail = _APOSTROPHE.split(word)[-1]
        if len(tail) > 1:  # l'avv. but not don't.
            word = tail
        tokens[-1] = word
    return tokens


def _keys(tokens: list[str]) -> list[str]:
    keys = [tokens[-1].lower()]
    for token in reversed(tokens[-4:-1]):
        token = token.lstrip(_OPENERS)
        if not token.endswith(".") or len(token) > 5:
            break
        keys.append(token.lower() + keys[-1])
    return keys[::-1]


# The rules


class Rule(NamedTuple):
    """A rule: its name, the kind of stops that it is asked about, and a case that it decides.

    In the example ⟦ and ⟧ enclose sentences. Without the rule it is cut otherwise.
    """

    name: str
    kind: str
    example: str
    decide: Callable[[Stop], bool | None]


_rules: list[Rule] = []
_Decide = Callable[[Stop], bool | None]


def _rule(kind: str, example: str) -> Callable[[_Decide], _Decide]:
    def add(decide: _Decide) -> _Decide:
        name = decide.__name__.strip("_").replace("_", " ")
        _rules.append(Rule(name, kind, example, decide))
        return decide

    return add


# 1. No white space follows


@_rule("glued", "⟦你好!⟧⟦再见!⟧⟦그는 갔다.⟧⟦나는 남았다.⟧")
def _between_characters(stop: Stop) -> bool | None:
    """Scripts that put no space there, or can do without. `哈...哈` stammers."""
    before, after = stop.text[stop.at - 1], stop.text[stop.last]
    if not (_CJK.match(before) and _CJK.match(after)) or before == after:
        return None
    if stop.run == "." and before not in _FINAL_SYLLABLES:
        return None
    return not (stop.leaves_open and _TAKEN_UP.match(stop.text, stop.last, stop.end))


@_rule("glued", "⟦How about noon?⟧⟦We can meet.⟧⟦Then we talk.⟧")
def _forgotten_space(stop: Stop) -> bool | None:
    """Two words in ordinary case; after a period the second must be a typical first word."""
    next_word = _GLUED.match(stop.text, stop.last, stop.end)
    word = stop.word.strip(")]\"'”’")
    if next_word is None or _LETTERS.fullmatch(word) is None or not word[-1].islower():
        return None
    if stop.run == ".":
        typical = next_word["word"].lower() in SENTENCE_STARTERS
        return True if word.islower() and typical and not stop.known else None
    return True if stop.run[-1] in "!?" else None


@_rule("glued", "⟦Node.js and ASP.NET are old.⟧")
def _within_a_word(stop: Stop) -> bool | None:
    return False


# 2. A mark of a script that needs no space


@_rule("script", "⟦約３．５円です。⟧")
def _full_width_decimal_point(stop: Stop) -> bool | None:
    between_digits = stop.text[stop.at - 1].isdigit() and stop.text[stop.last].isdigit()
    return False if stop.run == "．" and between_digits else None


@_rule("script", "⟦“走！”，他喊。⟧")
def _comma_after_it(stop: Stop) -> bool | None:
    return False if stop.text[stop.last] in _CONTINUES else None


@_rule("script", "⟦“这是对的。”他说。⟧")
def _taken_up_by_a_speaker(stop: Stop) -> bool | None:
    return False if stop.leaves_open and _TAKEN_UP.match(stop.text, stop.last, stop.end) else None


# 3. Dots


@_rule("ellipsis", "⟦Well... it depends.⟧")
def _goes_on_small(stop: Stop) -> bool | None:
    return False if stop.following.is_lower or _goes_on(stop) else None


@_rule("ellipsis", "⟦All men ... The rest is known.⟧")
def _words_left_out(stop: Stop) -> bool | None:
    """A fourth dot is the sentence's own."""
    before = stop.text[stop.at - 1]
    return False if stop.run.count(".") < 4 and (before.isspace() or before in "([") else None


@_rule("ellipsis", "⟦I… I don't know.⟧")
def _stammering(stop: Stop) -> bool | None:
    word = stop.text[max(0, stop.at - _REACH) : stop.at].split()[-1:]
    same = word and word[0].strip(_OPENERS).lower() == stop.following.word.lower()
    return False if same else None


# 4. Question and exclamation marks


@_rule("mark", "⟦The value 5! = 120 is known.⟧")
def _operator_after_it(stop: Stop) -> bool | None:
    return False if _goes_on(stop) else None


@_rule("mark", "⟦He (!) Won The Race.⟧")
def _comment_on_a_word(stop: Stop) -> bool | None:
    return False if stop.text[stop.at - 1] in "([（" and stop.closers else None


@_rule("mark", "⟦“Stop!” he shouted.⟧")
def _goes_on_small_after_a_mark(stop: Stop) -> bool | None:
    if not stop.following.is_lower:
        return None
    return not stop.closers and stop.text[stop.first].islower()  # careless typing throughout


@_rule("mark", '⟦"Good evening!" Tom Hale exclaimed.⟧')
def _speaker_follows(stop: Stop) -> bool | None:
    if not stop.quoted or (stop.following.is_starter and stop.following.word != "I"):
        return None
    speaker = _SPEAKER.match(stop.text, stop.last, stop.end)
    return False if speaker is not None and speaker["verb"] in SPEECH_VERBS else None


@_rule("mark", "⟦“가자!” 그가 말했다.⟧")
def _taken_up_after_a_mark(stop: Stop) -> bool | None:
    return _taken_up_by_a_speaker(stop)


# 5. One period


@_rule("period", "⟦The sum is 12. + 5 in all.⟧")
def _comma_or_operator_after_it(stop: Stop) -> bool | None:
    return False if _goes_on(stop) else None


@_rule("period", "⟦“가자.” 그가 말했다.⟧")
def _taken_up_after_a_period(stop: Stop) -> bool | None:
    return _taken_up_by_a_speaker(stop)


@_rule("period", "⟦IV. Results⟧")
def _number_of_a_heading(stop: Stop) -> bool | None:
    """A Roman number, a letter or parted numbers with nothing before them."""
    if not stop.is_first_word or stop.closers:
        return None
    label = _ROMAN.fullmatch(stop.word) or _ITEM_LABEL.fullmatch(stop.word)
    return False if label or (len(stop.word) == 1 and stop.word.isalpha()) else None


@_rule("period", "⟦The mfr. said no.⟧")
def _small_letter_after_it(stop: Stop) -> bool | None:
    """Careless typing puts small letters there. An unknown abbreviation looks the same, so the word
    must be a long one, or the sentence itself must have begun with a small letter."""
    if not stop.following.is_lower:
        return None
    if stop.closers or not stop.word.isalpha() or _is_lettered(stop.word) or stop.known:
        return False
    return len(stop.word) > 3 or stop.text[stop.first].islower()


@_rule("period", "⟦Figure 1. The whole model.⟧")
def _title_of_a_part(stop: Stop) -> bool | None:
    if stop.before.lower() not in TITLED_PARTS or stop.closers:
        return None
    starts_here = stop.text.startswith(stop.before, stop.first)
    near = stop.at - stop.first <= len(stop.before) + len(stop.word) + 1
    counts = _is_number(stop.word) or len(stop.word) == 1 or _ROMAN.fullmatch(stop.word)
    return False if starts_here and near and counts else None


@_rule("period", "⟦Am 3. Oktober feiern wir.⟧")
def _number_before_it(stop: Stop) -> bool | None:
    """Not after `3. Oktober`, `24. 12. 2020`, `: 1.`, `der 2. Weltkrieg`."""
    if not _is_number(stop.word):
        return None
    before, following = stop.before.lower(), stop.following
    if len(stop.word) > 2:
        return True
    if before.endswith(":") or following.word.lower() in _COUNTED_BY_ORDINALS:
        return False
    if following.word.isdigit():
        next_is_month = len(following.word) <= 2 and following.dotted
        next_is_year = len(following.word) == 4 and before[-1:] == "." and before[:-1].isdigit()
        return not (next_is_month or next_is_year)
    return before not in ORDINAL_CONTEXT or following.is_starter


@_rule("period", "⟦The agencies (FBI, CIA, etc.) Monday refused.⟧")
def _abbreviation_closes_a_bracket(stop: Stop) -> bool | None:
    in_brackets = any(char in ")]" for char in stop.closers) and stop.text[stop.first] not in "(["
    return False if in_brackets and stop.known else None


@_rule("period", "⟦Dr. Smith waited 5 ms.⟧ ⟦The rest did not.⟧")
def _title_or_connecting_word(stop: Stop) -> bool | None:
    if NEVER_FINAL.isdisjoint(stop.keys):
        return None
    unit = stop.word.islower() and _is_number(stop.before)  # 5 ms, 3 см
    return unit and stop.following.is_starter


@_rule("period", "⟦See Fed. R. Evid. 403.⟧")
def _citation(stop: Stop) -> bool | None:
    """Followed by a number or by the next part of the name."""
    following = stop.following
    next_is_cited = following.dotted and following.word.lower() in CITATION_WORDS
    between = stop.before.endswith(".") and (next_is_cited or stop.cites_before)
    if not stop.word[:1].isupper() or not (stop.cited or between):
        return None
    part = following.dotted and len(following.word) <= 8
    if following.is_digit or following.lead.startswith("§") or part or following.word.isupper():
        return False
    return False if stop.before.endswith(".") and not following.is_starter else None


@_rule("period", "⟦Sie wohnt in der Hauptstr. 5 neben Nr. 7.⟧ ⟦Wt. 70 kg.⟧")
def _abbreviation_before_a_number(stop: Stop) -> bool | None:
    if not BEFORE_NUMBER.isdisjoint(stop.keys):
        roman = _ROMAN.fullmatch(stop.following.word) and stop.following.word.isupper()
        pronoun = stop.following.word == "I" and stop.word.lower() == "no"
        return not (stop.following.is_digit or (roman and not pronoun))
    compound = stop.word.lower().endswith(COMPOUND_ENDINGS) and len(stop.word) > 4
    without_vowel = _VOWELLESS.fullmatch(stop.word) and not _is_number(stop.before)
    return False if (compound or without_vowel) and stop.following.is_digit else None


@_rule("period", "⟦Etwa 5 Mio. Euro.⟧ ⟦Das ist viel.⟧")
def _measure_of_a_noun(stop: Stop) -> bool | None:
    counted = stop.word[:1].isupper() and stop.word.lower() in COUNTED
    return stop.following.is_starter if counted and _is_number(stop.before) else None


@_rule("period", "⟦We met at 5 p.m. Friday.⟧ ⟦We ate pens, etc. 5 times.⟧")
def _abbreviation_that_may_be_last(stop: Stop) -> bool | None:
    for key in stop.keys:
        if key in FINAL_BEFORE_CAPITAL:
            time = key in _TIMES and stop.following.word.lower() in TIME_FOLLOWERS
            return not (stop.following.is_digit or time)
    return None


@_rule("period", "⟦Apple Inc. CEO Tim Cook left Apple Inc.⟧ ⟦He did.⟧")
def _abbreviation_that_is_seldom_last(stop: Stop) -> bool | None:
    return None if FINAL_BEFORE_STARTER.isdisjoint(stop.keys) else stop.following.is_starter


@_rule("period", "⟦It comes in sizes S, M and L.⟧ ⟦Fits well.⟧")
def _letter_that_is_a_word(stop: Stop) -> bool | None:
    word, tokens = stop.word, stop.tokens[:-1]
    if word == "я" or (word == "I" and stop.before.islower()):
        return True
    while len(tokens) > 1 and (len(tokens[-1].strip(",")) == 1 or tokens[-1] in _AND):
        tokens = tokens[:-1]
    noun = tokens[-1].lower() if tokens else ""
    label = noun in LABEL_NOUNS or noun.removesuffix("s") in LABEL_NOUNS
    return True if len(word) == 1 and word.isalpha() and label else None


@_rule("period", "⟦J. De Niro met J.R.R. Tolkien.⟧ ⟦M. Le Pen did not.⟧")
def _initials(stop: Stop) -> bool | None:
    if not _is_lettered(stop.word):
        return None
    particle = stop.word.isupper() and stop.following.word.lower() in NAME_PARTICLES
    return stop.following.is_starter and not particle


RULES = tuple(_rules)
"""All of them, in the order in which they are asked."""


def _goes_on(stop: Stop) -> bool:
    lead = stop.following.lead
    return lead[:1] != "" and lead[0] in _CONTINUES + _OPERATORS


def _is_number(word: str) -> bool:
    return word.replace(".", "").replace(",", "").isdigit()


def _is_lettered(word: str) -> bool:
    """Whether a word is one letter or dotted letters: `J`, `U.S`."""
    return all(len(part) == 1 and part.isalpha() for part in word.split("."))


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
    for found in _SCANNED.finditer(text, start, end):
        kind, at = found.lastgroup, found.start()
        if kind == "quote":
            quotes.see(found.group())
        elif kind == "tag":
            in_cell = found["cell"] is not None or (in_cell and found["row"] is None)
            if not in_cell and _breaks_line(text, found, start, end):
                yield first, max(first, at)
                first = _skip_markers(text, found.end(), end)
        elif kind == "stop" and at > first and not in_cell:  # else it is part of a marker or a row
            closed = quotes.closed(text, found.end(), end)
            last = _match_end(_TAIL, text, closed, end)
            if last == end or _ends(
                Stop(text, first, at, found.group(), closed, last, end), rules_of
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
    if item is None or item["next"].lower() in _COUNTED_BY_ORDINALS:
        return start
    if numbers is not None and item["number"] is not None:
        number = int(item["number"])
        if not numbers & {number - 1, number + 1}:
            return start
    return item.end()


def _match_end(pattern: re.Pattern[str], text: str, start: int, end: int) -> int:
    match = pattern.match(text, start, end)
    return match.end() if match else start
