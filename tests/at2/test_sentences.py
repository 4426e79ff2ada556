"""Splitting: a table of hard cases, and properties that hold for any text."""

import re
import textwrap
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nltk.tokenize.punkt import PunktSentenceTokenizer

from at2.errors import InputError
from at2.text.boundaries import sentences_of_passage
from at2.text.boundary_rules import RULES, Rule
from at2.text.sentences import (
    CharRange,
    punkt_tab_splitter,
    split_paragraphs,
    split_sentences,
    split_text,
    split_words,
)
from tests.helpers.sentences import Case, parse_case, read_cases

CASES = read_cases("sentences.txt")
HELD_OUT = read_cases("sentences_heldout.txt")

# fmt: off
PIECES = st.sampled_from([
    *'.!?…。！？।؟;:,"“”«»‘’„()[]{}*-—•#123 \t\n\r\x0b\x1c\x85\u00a0\u2028\u2029\u3000',
    "\r\n", "...", ". . .", "Dr.", "U.S.", "z. B.", "3. ", "[...]", "[1]", "e.g. ", "I", "a",
    "The ", "word", "don't", "n’t", "'", "été", "e\u0301", "\u0301", "子", "で", "ไทย", "한글",
    "مرحبا", "नमस्ते", "\u200d", "\ufe0f", "😀", "👩\u200d👩\u200d👧", "🇩🇪",
    "http://a.b/c", "a@b.cd", "_", "ß", "`", "```", "\n```\n", "|", "|---|", "<br>", "<think>",
    "<td>", "12.", "4)", "१२", "½", "2024", ",5", "noon?We", "“", "„", "said", "\n2. ", "the\nnew",
    "a long line of words that was wrapped at a column of characters\n",
])
# fmt: on
"""What the rules look at, so that random texts reach them."""
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=40).map("".join))


def texts_of(text: str, ranges: list[CharRange]) -> list[str]:
    return [text[start:end] for start, end in ranges]


def name_of(case: Case) -> str:
    return f"{case.language}-{case.text[:30]!r}"


@pytest.mark.parametrize("case", [case for case in CASES if not case.known_failure], ids=name_of)
def test_hard_case_is_split_as_a_reader_would(case: Case) -> None:
    ranges = split_sentences(case.text)

    assert texts_of(case.text, ranges) == case.sentences
    assert ranges == list(case.ranges)


@pytest.mark.parametrize("case", [case for case in CASES if case.known_failure], ids=name_of)
def test_known_failures_still_fail(case: Case) -> None:
    """If one is right at last, take the mark off it."""
    assert split_sentences(case.text) != list(case.ranges)


def test_table_is_large_and_few_of_it_fail() -> None:
    assert len(CASES) >= 150
    assert len({case.text for case in CASES + HELD_OUT}) == len(CASES) + len(HELD_OUT)
    assert len({case.language for case in CASES}) >= 15
    assert sum(case.known_failure for case in CASES) / len(CASES) < 0.03


@pytest.mark.parametrize(("cases", "least"), [(CASES, 0.97), (HELD_OUT, 0.9)])
def test_more_cases_are_right_than_with_bare_punkt(cases: list[Case], least: float) -> None:
    punkt = PunktSentenceTokenizer()

    ours = sum(texts_of(c.text, split_sentences(c.text)) == c.sentences for c in cases)
    bare = sum(
        [
            sentence
            for line in c.text.splitlines()
            for sentence in punkt.tokenize(line)
            if any(map(str.isalpha, sentence))
        ]
        == c.sentences
        for c in cases
    )

    assert ours / len(cases) >= least
    assert ours / len(cases) >= bare / len(cases) + 0.3


NO_SOURCE = re.compile(
    r"""
    ^[ \t>]*(?:`{3,}[^`\n]*|~{3,}.*)$            # a fence
    | (?<!\d)\(?\d{1,3}(?:\.\)|[.)])(?!\S)       # the number of an item
    | </?(?:br|think|td)>
    """,
    re.VERBOSE | re.MULTILINE,
)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("\u0301a. \u0301B")
@example("1. 2. a) b. ¿?!")
@example("12.\n13.\n14.")
@example("1987\n265086. 12. 5")
@example("| 5 | 6 |\n7,8,9\n7,8,9")
@example("```5\nx = 5. Y\n``` 6\n~~~\n7")
def test_every_letter_and_figure_is_in_exactly_one_sentence(text: str) -> None:
    ranges = split_sentences(text)

    check_ranges(text, ranges)
    covered = {i for start, end in ranges for i in range(start, end)}
    lines = "\n".join(text.splitlines())  # as long as the text, but for \r\n and a last line end
    if len(lines) == len(text.removesuffix("\n")):
        apart = {i for found in NO_SOURCE.finditer(lines) for i in range(*found.span())}
    else:
        apart = set(range(len(text)))
    assert all(i in covered or i in apart for i, char in enumerate(text) if char.isalnum())
    assert all(any(map(str.isalnum, part)) for part in texts_of(text, ranges))


@settings(max_examples=200, deadline=None)
@given(TEXTS, TEXTS)
@example("The first line of a text that was wrapped at a column\n", "goes on. Does it?")
def test_what_a_blank_line_parts_is_split_as_if_it_stood_alone(before: str, after: str) -> None:
    """But for fences, which blank lines do not end."""
    before = before.replace("```", "")
    text = f"{before}\n\n{after}"
    shift = len(before) + 2

    assert split_sentences(text) == split_sentences(before) + [
        (start + shift, end + shift) for start, end in split_sentences(after)
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.kind}-{rule.name}")
def test_each_rule_decides_its_example(rule: Rule) -> None:
    case = parse_case(f"en {rule.example}")
    others = tuple(other for other in RULES if other is not rule)

    def pieces(rules: tuple[Rule, ...]) -> list[str]:
        found = sentences_of_passage(case.text, 0, len(case.text), rules)
        return [case.text[start:end].strip() for start, end in found if start < end]

    assert pieces(RULES) == case.sentences
    assert pieces(others) != case.sentences


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("e\u0301 👩‍👩‍👧 🇩🇪 don't")
@example("\x1c \x1f.\x1fa")
def test_words_are_all_that_is_not_white_space(text: str) -> None:
    ranges = split_words(text)

    check_ranges(text, ranges)
    covered = {i for start, end in ranges for i in range(start, end)}
    assert all((i in covered) is not char.isspace() for i, char in enumerate(text))


@settings(max_examples=400, deadline=None)
@given(TEXTS)
@example("0\r\r\n0")
def test_paragraphs_are_what_blank_lines_part(text: str) -> None:
    ranges = split_paragraphs(text)

    check_ranges(text, ranges)
    slow: list[list[str]] = [[]]
    for block in text.split("\u2029"):
        for line in block.splitlines():
            if line.strip():
                slow[-1].append(line)
            else:
                slow.append([])
        slow.append([])
    assert [p.splitlines() for p in texts_of(text, ranges)] == [
        "\n".join(lines).strip().splitlines() for lines in slow if lines
    ]


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.sampled_from(["sentence", "word", "paragraph"]))
def test_separators_and_parts_make_up_the_text(text: str, split_by: str) -> None:
    parts, separators, ranges = split_text(text, split_by)

    assert parts == texts_of(text, ranges)
    joined = "".join(s + p for s, p in zip(separators, parts, strict=True))
    assert text.startswith(joined)
    assert ranges == [
        (place + len(separator), place + len(separator) + len(part))
        for place, separator, part in with_positions(separators, parts)
    ]
    if split_by != "sentence":
        assert not text[len(joined) :].strip()


def with_positions(separators: list[str], parts: list[str]) -> list[tuple[int, str, str]]:
    result, place = [], 0
    for separator, part in zip(separators, parts, strict=True):
        result.append((place, separator, part))
        place += len(separator) + len(part)
    return result


def check_ranges(text: str, ranges: list[CharRange]) -> None:
    flat = [0, *(place for pair in ranges for place in pair), len(text)]
    assert flat == sorted(flat)
    assert all(start < end for start, end in ranges)
    assert all(part == part.strip() for part in texts_of(text, ranges))


@pytest.mark.parametrize("text", ["", " ", "\n\n", "—", "“”", "...", "😀", "---\n***", "|---|---|"])
def test_text_without_a_letter_or_a_figure_has_no_sentence(text: str) -> None:
    assert split_sentences(text) == []


@pytest.mark.parametrize("text", ["265086", "42.", "1.", "१२", "½", "-3.5 %", "1987)", "Ⅳ"])
def test_figures_alone_are_a_sentence(text: str) -> None:
    assert texts_of(text, split_sentences(text)) == [text]


@pytest.mark.parametrize(
    "text",
    [
        "1987\n1988\n265086",
        "year,sum\n1987,12\n1988,14.5",
        "year\tsum\n1987\t12",
        "| 1987 | 12 |\n| 1988 | 13. 5 |",
        "Total: 12\n13",
    ],
)
def test_every_line_of_a_table_or_a_list_of_values_can_be_cited(text: str) -> None:
    assert texts_of(text, split_sentences(text)) == text.splitlines()


WRAPPED = (
    "The committee met on Monday, 3 May 1987, and decided to close the old school in Oldham, "
    "because the number of pupils had fallen for years. Dr. Smith and the parents of New Mills "
    "were not asked. They protested in front of the town hall, but nobody came out to see them."
)


@pytest.mark.parametrize("width", [50, 60, 66, 72, 80, 100])
@pytest.mark.parametrize("indent", ["", "  ", "- "])
def test_text_wrapped_at_a_column_is_split_as_if_it_were_not(width: int, indent: str) -> None:
    wrapped = textwrap.fill(
        WRAPPED, width, initial_indent=indent, subsequent_indent=" " * len(indent)
    )

    pieces = texts_of(wrapped, split_sentences(wrapped))

    assert [" ".join(piece.split()) for piece in pieces] == texts_of(
        WRAPPED, split_sentences(WRAPPED)
    )


@pytest.mark.parametrize(
    "text",
    [
        "milk\neggs\nbread",
        "A heading\nA line without a stop",
        "install the package from the registry\nrun the command in the terminal",
        "Roses are red,\nViolets are blue,\nSugar is sweet,\nAnd so are you",
        "2024-05-01 12:00:01 INFO started the server\n2024-05-01 12:00:02 INFO got the request",
        "Things to take along on the trip to the mountains:\nshoes that fit",
    ],
)
def test_lines_that_do_not_clearly_go_on_are_pieces(text: str) -> None:
    assert texts_of(text, split_sentences(text)) == text.split("\n")


def test_numbers_and_bullets_of_a_list_are_separators() -> None:
    parts, separators, _ = split_text("1. One.\n2. Two. Three.\n- Four", "sentence")

    assert parts == ["One.", "Two.", "Three.", "Four"]
    assert separators == ["1. ", "\n2. ", " ", "\n- "]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\u2028", "\u2029", "\x0b", "\x85"])
def test_any_line_break_ends_a_sentence(line_end: str) -> None:
    text = f"A heading{line_end}A line without a stop"

    assert texts_of(text, split_sentences(text)) == ["A heading", "A line without a stop"]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\u2028"])
def test_blank_lines_part_paragraphs(line_end: str) -> None:
    text = f"{line_end} One{line_end}two {line_end} \t{line_end}Three{line_end}"

    assert texts_of(text, split_paragraphs(text)) == [f"One{line_end}two", "Three"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("He doesn't, she'll.", ["He", "does", "n't", ",", "she", "'ll", "."]),
        ("It’s Ann’s", ["It", "’s", "Ann", "’s"]),
        ('"Hi" (there)', ['"', "Hi", '"', "(", "there", ")"]),
        ("$3.14 or 1,000%", ["$", "3.14", "or", "1,000", "%"]),
        ("the U.S. and 10:30", ["the", "U.S.", "and", "10:30"]),
        ("see https://a.org/b?c=d.", ["see", "https://a.org/b?c=d", "."]),
        ("to a.b@c.org now", ["to", "a.b@c.org", "now"]),
        ("well-known... snake_case", ["well", "-", "known", "...", "snake_case"]),
        ("我用iPhone。", ["我", "用", "iPhone", "。"]),
        ("见https://a.org/b，谢谢。", ["见", "https://a.org/b", "，", "谢", "谢", "。"]),
        ("(https://a.org）】》」』；：、！", ["(", "https://a.org", *"）】》」』；：、！"]),
        ("去https://a.org/东京", ["去", "https://a.org/", "东", "京"]),
        ("联系a.b@c.org谢", ["联", "系", "a.b@c.org", "谢"]),
        ("カードa@b.org", ["カ", "ー", "ド", "a@b.org"]),
        ("ーa@b.org", ["ー", "a@b.org"]),
        ("ที่a@b.orgคือ", ["ที่", "a@b.org", "คื", "อ"]),
        ("오늘은 춥다.", ["오늘은", "춥다", "."]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
        ("e\u0301te\u0301 👩‍👩‍👧🇩🇪", ["e\u0301te\u0301", "👩‍👩‍👧", "🇩🇪"]),
        ("`` quoted ''", ["`", "`", "quoted", "'", "'"]),
    ],
)
def test_words_of_a_text(text: str, words: list[str]) -> None:
    assert texts_of(text, split_words(text)) == words


@given(
    st.lists(
        st.sampled_from(
            ["https://a.org/", "www.b", "c@d.org", "가", "谢", "है", "word", "U.S.", "3.14", "’s",
             "。", "！", "!", "?", "।", "؟", ".", "...", ". ", "_", "*", "”", "（", " ", "\n", "😀"]
        )
        | st.text(max_size=3),
        max_size=10,
    ).map("".join)
)  # fmt: skip
@example("https://a.org/가!나")
@example("见https://a.org/b。再见")
@example("Done。_abc")
@example("www.a।b")
def test_words_lie_within_sentences_or_between_them(text: str) -> None:
    edges = [edge for sentence in split_sentences(text) for edge in sentence]

    words = split_words(text)

    check_ranges(text, words)
    assert not [(w, edge) for w in words for edge in edges if w[0] < edge < w[1]]
    covered = {place for start, end in words for place in range(start, end)}
    assert all(place in covered or char.isspace() for place, char in enumerate(text))


@settings(deadline=None)
@given(st.text(st.characters(categories=["Lu", "Ll", "Lo", "Mn", "Mc"]), min_size=1, max_size=12))
def test_accent_stays_with_its_letter(text: str) -> None:
    starts = [start for start, _ in split_words(text)]

    assert all(start == 0 or unicodedata.combining(text[start]) == 0 for start in starts)


def test_unknown_unit_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'line'.*sentence, word, paragraph") as caught:
        split_text("a", "line")

    assert caught.value.param == "split_by"


@pytest.mark.parametrize(
    "unit",
    ["word ", ".", ". ", "! ", "a. ", "aa.", 'x."', "!😀", "1. ", "- ", "a@", "a-", "[1] ", "\n",
     "http://", "e\u0301", "'", "。」", "`", "``", "`a ", "\n```\n", "|", "|-", "\n|", "[", ".[",
     ".[1]", "(", "<", "<p ", "<br>", "<td>", "\t", "”.“", "a\n", "\n1. ", "\n- ", ".¹", ", ", "1,",
     "    a"],
)  # fmt: skip
def test_long_monotonous_texts_are_split_at_once(unit: str) -> None:
    """Nothing is timed: with a quadratic step this would take minutes."""
    text = "A" + unit * (100_000 // len(unit))

    for split in (split_sentences, split_words, split_paragraphs):
        check_ends(text, split(text))


def check_ends(text: str, ranges: list[CharRange]) -> None:
    assert ranges[0][0] == 0
    assert ranges[-1][1] <= len(text)


def test_megabytes_of_prose_keep_their_sentences() -> None:
    text = "Dr. Smith met J. R. Jones at 5 p.m. He left. 今日は。" * 20_000  # 1 MB

    ranges = split_sentences(text)

    assert len(ranges) == 3 * 20_000
    assert texts_of(text, ranges[-3:]) == [
        "Dr. Smith met J. R. Jones at 5 p.m.",
        "He left.",
        "今日は。",
    ]


def test_missing_punkt_tab_data_is_said_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nltk.data.path", [])

    with pytest.raises(InputError, match=r"'german'.*nltk\.downloader punkt_tab") as caught:
        punkt_tab_splitter("german")

    assert caught.value.param == "language"


def test_punkt_tab_data_is_used_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tmp_path / "tokenizers" / "punkt_tab" / "english"
    model.mkdir(parents=True)
    (model / "abbrev_types.txt").write_text("zq\n")
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (model / name).write_text("")
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    text = "Heading\n1. Zq. Brown left. Rt. Green stayed."

    split = punkt_tab_splitter("english")

    assert texts_of(text, split(text)) == ["Heading", "Zq. Brown left.", "Rt.", "Green stayed."]
