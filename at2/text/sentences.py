"""Splitting text into sentences, words and paragraphs.

Ranges are half-open, in characters (Unicode code points) of the text as it was given, in order,
without overlap and without white space at their ends. Nothing is downloaded and no language is
asked for. Knows nothing of tokens or of models.
"""

import string
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import regex

from at2.errors import InputError
from at2.ranges import CharRange
from at2.text.boundaries import sentences_of_passage
from at2.text.markup import ADDRESS, BESIDE, SOLID
from at2.text.passages import passages

_ITEM_NUMBER = regex.compile(r"\(?\d{1,3}(?:\.\)|[.)])")
_REFERENCES = regex.compile(r"(?:\[[\w ,;–-]{1,20}\]\s*+)++")
_NO_WORDS = frozenset(string.whitespace + string.digits + string.punctuation)

SentenceSplitter = Callable[[str], list[CharRange]]
"""The type of `split_sentences`, for those who supply their own."""

_MAIL = rf"(?:(?![{BESIDE}])[\p{{L}}\p{{N}}-])"
_WORD = regex.compile(
    rf"""
    {ADDRESS}
    | (?:{_MAIL}|[._%+]){{1,64}}+@{_MAIL}{{1,63}}+(?:\.{_MAIL}{{1,63}}+){{1,9}}+    # of mail
    | (?:\p{{L}}\.){{2,}}                                          # U.S., e.g.
    | \p{{Nd}}++(?:[.,:]\p{{Nd}}++)*+                              # 3.14, 1,000, 10:30
    | ['’](?i:s|re|ve|ll|d|m)\b                                  # clitics: it|'s, we|'ll
    | (?i:n['’]t)\b                                              # do|n't
    | (?:(?!(?i:n['’]t\b)|[{SOLID}])[\p{{L}}\p{{M}}\p{{N}}_\u200c\u200d])++
    | ([.\-=_*#~])\1++                                           # an ellipsis or a rule
    | (?![\s\x1c-\x1f])\X                                        # any other visible character
    """,
    regex.VERBOSE,
)


def split_sentences(text: str) -> list[CharRange]:
    """The sentences of a text.

    A line break ends a sentence, as in the published splitter: headings and items of lists have no
    stop. Only where a text was hard-wrapped at a column and a line clearly goes on in the next one
    are they read as one (`at2.text.passages`). Inside a passage `at2.text.boundaries` decides.

    A piece without a letter or a figure (`---`, `—`, an emoji) says nothing that could be
    attributed: it is no sentence, and lies between two. The published splitter means the same but
    knows only ASCII punctuation, so that a lone dash or quotation mark counts as a sentence there;
    here letters and figures are what Unicode calls so. Bullets and numbers before an item of a
    list, fences of code and tags that break a line (`<br>`, `<think>`) lie between sentences too.
    Every other letter and figure is in exactly one sentence. A row of a table and a line of code in
    a fence are one sentence each.

    Returns:
        Ranges `(start, end)` in characters; none if the text has no letter and no figure.
    """
    sentences: list[CharRange] = []
    for start, end, whole in passages(text):
        pieces = [(start, end)] if whole else sentences_of_passage(text, start, end)
        visible = _visible(text, pieces)
        for first, last in visible:
            if visible[0][0] < first and _REFERENCES.fullmatch(text, first, last):
                sentences[-1] = (sentences[-1][0], last)  # [1] alone stays with what it is said of
            else:
                sentences.append((first, last))
    return sentences


def split_words(text: str) -> list[CharRange]:
    """The words, numbers and punctuation marks of a text; together all that is not white space.

    Like spaCy's English tokenizer in the published package: punctuation stands alone, `don't` is
    `do` and `n't`, addresses, decimals and dotted letters (`U.S.`) stay whole. In scripts without
    spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every character is a word: a dictionary
    would make the result depend on its version. Characters that are shown as one (an accent after
    its letter, an emoji of several) are never separated. NLTK's tokenizers are not used because
    they rewrite quotation marks and then cannot always find them in the text again.

    No word goes on where a sentence of `split_sentences` begins or ends.

    Returns:
        Ranges `(start, end)` in characters.
    """
    edges = [0, *(edge for sentence in split_sentences(text) for edge in sentence), len(text)]
    return [
        match.span() for start, end in pairwise(edges) for match in _WORD.finditer(text, start, end)
    ]


def split_paragraphs(text: str) -> list[CharRange]:
    """The paragraphs of a text: runs of lines between lines that are empty or white space.

    A paragraph separator (U+2029) ends one too.

    Returns:
        Ranges `(start, end)` in characters.
    """
    paragraphs: list[CharRange] = []
    start, goes_on = 0, False
    for line in text.splitlines(keepends=True):
        first, last = _trimmed(text, start, start + len(line))
        start += len(line)
        if first < last:
            paragraphs.append((paragraphs.pop()[0] if goes_on else first, last))
        goes_on = first < last and not line.endswith("\u2029")
    return paragraphs


_SPLITTERS: dict[str, SentenceSplitter] = {
    "sentence": split_sentences,
    "word": split_words,
    "paragraph": split_paragraphs,
}


def split_text(text: str, split_by: str) -> tuple[list[str], list[str], list[CharRange]]:
    """Split a text as the published `at2.utils.split_text` does.

    Args:
        split_by: "sentence", "word" or "paragraph".

    Returns:
        The parts, the text before each part since the part before it, and the parts' ranges.
        Separators and parts in turn make up the text, but for what follows the last part.

    Raises:
        InputError: `split_by` is something else.
    """
    if split_by not in _SPLITTERS:
        allowed = ", ".join(_SPLITTERS)
        raise InputError(f"cannot split by {split_by!r}: not one of {allowed}", param="split_by")
    ranges = _SPLITTERS[split_by](text)
    parts = [text[start:end] for start, end in ranges]
    ends = [0, *(end for _, end in ranges)]
    separators = [text[before:start] for before, (start, _) in zip(ends, ranges, strict=False)]
    return parts, separators, ranges


def is_sentence(s: str) -> bool:
    """Whether a text has more than ASCII digits, punctuation and white space, as the published
    package counts."""
    return not _NO_WORDS.issuperset(s)


def punkt_tab_splitter(language: str = "english") -> SentenceSplitter:
    """A splitter that uses NLTK's trained Punkt model, as the published package does.

    Its data is not part of this package or of NLTK; `python -m nltk.downloader punkt_tab` fetches
    it. Line breaks end sentences; pieces without a letter or a figure and the numbers of a list's
    items are left out, as in `split_sentences`.

    Raises:
        InputError: the data for this language is not installed.
    """
    from nltk.tokenize.punkt import (
        PunktTokenizer,
    )  # NLTK takes long to import, and only this needs it

    try:
        tokenizer = PunktTokenizer(language)
    except (LookupError, ValueError) as error:
        raise InputError(
            f"NLTK has no punkt_tab data for {language!r} here: "
            "install it with `python -m nltk.downloader punkt_tab`",
            param="language",
        ) from error

    def split(text: str) -> list[CharRange]:
        sentences: list[CharRange] = []
        for start, end in _lines(text):
            spans = tokenizer.span_tokenize(text[start:end])
            pieces = _visible(text, ((start + first, start + last) for first, last in spans))
            marked = len(pieces) > 1 and _ITEM_NUMBER.fullmatch(text, *pieces[0])
            sentences += pieces[1:] if marked else pieces
        return sentences

    return split


def _lines(text: str) -> Iterator[CharRange]:
    """The lines of a text, without line ends and other white space at their ends."""
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, start + len(line.rstrip())
        start += len(line)


def _visible(text: str, pieces: Iterable[CharRange]) -> list[CharRange]:
    """The pieces that hold a letter or a figure, trimmed."""
    return [
        _trimmed(text, start, end)
        for start, end in pieces
        if any(map(str.isalnum, text[start:end]))
    ]


def _trimmed(text: str, start: int, end: int) -> CharRange:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())
