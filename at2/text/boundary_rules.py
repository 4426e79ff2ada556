"""The rules that say whether a stop ends its sentence, each with a case that it decides.

The decisions are local: the word before the stop, what closes after it, and the word that follows.
They follow the reasoning of Punkt (Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary
Detection", 2006: abbreviations, initials, ordinals, typical first words), with tables that ship
here in place of statistics of a training text, and add what Punkt has no notion of: the stops of
other scripts, quotations, addresses, code. Knows no language.
"""

import re
from collections.abc import Callable
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
    NAME_PARTICLES,
    NEVER_FINAL,
    ORDINAL_CONTEXT,
    SENTENCE_STARTERS,
    SPEECH_VERBS,
    TIME_FOLLOWERS,
    TITLED_PARTS,
)
from at2.text.stops import COUNTED_BY_ORDINALS, OPENERS, REACH, Stop

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

_ROMAN = re.compile(
    r"(?:X{0,3}(?:IX|IV|V?I{1,3}|V)|X{1,3}|XL|LX{0,3}|C)|(?:ix|iv|vi{0,3}|i{1,3}|xi{0,3})"
)

_ITEM_LABEL = re.compile(r"\w{1,3}(?:\.\w{1,3}){1,4}")

_VOWELLESS = regex.compile(r"(?!H+m)\p{Lu}[b-df-hj-np-tv-xzßç]{1,4}+")

_TIMES = frozenset(("a.m", "p.m", "am", "pm"))


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
    word = stop.text[max(0, stop.at - REACH) : stop.at].split()[-1:]
    same = word and word[0].strip(OPENERS).lower() == stop.following.word.lower()
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
    if before.endswith(":") or following.word.lower() in COUNTED_BY_ORDINALS:
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
