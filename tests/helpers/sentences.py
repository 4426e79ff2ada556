"""Reads the tables of sentence splitting cases in tests/data."""

import re
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"
_BRACKETS = re.compile("[⟦⟧]")


@dataclass(frozen=True)
class Case:
    """A text and its sentences, as half-open character ranges.

    Attributes:
        language: a two-letter code.
        known_failure: the splitter is known not to get this one.
    """

    language: str
    text: str
    ranges: tuple[tuple[int, int], ...]
    known_failure: bool

    @property
    def sentences(self) -> list[str]:
        return [self.text[start:end] for start, end in self.ranges]


def read_cases(name: str) -> list[Case]:
    """The cases of one file of tests/data."""
    lines = (DATA / name).read_text(encoding="utf-8").split("\n")
    return [parse_case(line) for line in lines if line and not line.startswith("#")]


def parse_case(line: str) -> Case:
    """One line of such a file."""
    language, marked = line.split(" ", 1)
    marked = marked.replace("⏎", "\n")
    marks = [(m.start() - i, m.group()) for i, m in enumerate(_BRACKETS.finditer(marked))]
    if "".join(kind for _, kind in marks) != "⟦⟧" * (len(marks) // 2):
        raise ValueError(f"unbalanced brackets: {line}")
    places = [place for place, _ in marks]
    return Case(
        language.removeprefix("!"),
        _BRACKETS.sub("", marked),
        tuple(zip(places[::2], places[1::2], strict=True)),
        language.startswith("!"),
    )
