"""How many hard cases of sentence splitting are right: ours beside NLTK's Punkt.

Run from the root of the repository: `python -m benchmarks.sentences`. Needs no data, no network.
"""

from collections.abc import Callable

from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

from at2.text import abbreviations as tables
from at2.text.sentences import split_sentences
from tests.helpers.sentences import Case, read_cases


def by_line(tokenizer: PunktSentenceTokenizer) -> Callable[[str], list[str]]:
    """Punkt as the published splitter calls it: line by line, without pieces of no letter."""

    def split(text: str) -> list[str]:
        lines = text.splitlines()
        sentences = [sentence for line in lines for sentence in tokenizer.tokenize(line)]
        return [sentence for sentence in sentences if any(map(str.isalpha, sentence))]

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


def ours(text: str) -> list[str]:
    return [text[start:end] for start, end in split_sentences(text)]


def share(cases: list[Case], split: Callable[[str], list[str]]) -> float:
    return sum(split(case.text) == case.sentences for case in cases) / len(cases)


def main() -> None:
    splitters = {
        "ours": ours,
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
