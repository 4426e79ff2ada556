"""How many hard cases of sentence splitting are right: ours beside sentencex and NLTK's Punkt.

Run from the root of the repository: `python -m benchmarks.sentences`. Needs no network. sentencex
is told the language of each case, and what it counts to a sentence but the tables do not (the space
after it, the number of a list's item) is taken off first. Punkt's trained English model
is there where NLTK has its data (`python -m nltk.downloader punkt_tab`).
"""

import re
from collections.abc import Callable

import sentencex
from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from at2.errors import InputError
from at2.text import abbreviations as tables
from at2.text.sentences import punkt_tab_splitter, split_sentences
from tests.helpers.sentences import Case, read_cases

Splitter = Callable[[Case], list[str]]

_MARKER = re.compile(r"\A(?:[-*+•>]|#{1,6}|\(?\d{1,3}(?:\.\)|[.)]))(?:\s+|\Z)")


def with_sentencex(case: Case) -> list[str]:
    """sentencex, without what no piece of the tables holds."""
    pieces = [
        _MARKER.sub("", piece.strip(), count=1)
        for line in case.text.splitlines()
        for piece in sentencex.segment(case.language, line)
    ]
    return [piece.strip() for piece in pieces if any(map(str.isalnum, piece))]


def by_line(tokenizer: PunktSentenceTokenizer) -> Splitter:
    """Punkt as the published splitter calls it: line by line, without pieces of no letter."""

    def split(case: Case) -> list[str]:
        lines = case.text.splitlines()
        sentences = [sentence for line in lines for sentence in tokenizer.tokenize(line)]
        return [sentence for sentence in sentences if any(map(str.isalnum, sentence))]

    return split


def with_our_tables() -> PunktSentenceTokenizer:
    """Punkt with the abbreviations and first words that ours uses."""
    parameters = PunktParameters()
    parameters.abbrev_types = set(
        tables.NEVER_FINAL
        | tables.BEFORE_NUMBER
        | tables.FINAL_BEFORE_CAPITAL
        | tables.FINAL_BEFORE_STARTER
    )
    parameters.sent_starters = set(tables.SENTENCE_STARTERS)
    return PunktSentenceTokenizer(parameters)


def ours(case: Case) -> list[str]:
    return [case.text[start:end] for start, end in split_sentences(case.text)]


def trained_punkt() -> dict[str, Splitter]:
    """Punkt's trained model where its data are at hand."""
    try:
        split = punkt_tab_splitter()
    except InputError:
        return {}
    return {"trained Punkt": lambda case: [case.text[s:e] for s, e in split(case.text)]}


def share(cases: list[Case], split: Splitter) -> float:
    return sum(split(case) == case.sentences for case in cases) / len(cases)


def main() -> None:
    splitters = {
        "ours": ours,
        "sentencex, told the language": with_sentencex,
        **trained_punkt(),
        "Punkt with our tables": by_line(with_our_tables()),
        "bare Punkt": by_line(PunktSentenceTokenizer()),
    }
    groups = {"table": read_cases("sentences.txt"), "held out": read_cases("sentences_heldout.txt")}
    for language in sorted({case.language for case in groups["table"]}):
        groups[language] = [case for case in groups["table"] if case.language == language]

    print("| cases | number | " + " | ".join(splitters) + " |")
    print("|---|---:|" + "---:|" * len(splitters))
    for name, cases in groups.items():
        shares = (f"{share(cases, split):.1%}" for split in splitters.values())
        print(f"| {name} | {len(cases)} | " + " | ".join(shares) + " |")


if __name__ == "__main__":
    main()
