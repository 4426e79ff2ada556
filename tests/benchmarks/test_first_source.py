"""Answers that do not rest on their sentence count apart; intervals are over questions."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from benchmarks.first_source import Answered, read, share, table
from benchmarks.grounds import HALF_AS_LIKELY, Drops

FOUND = Answered(
    title="Passages",
    query="When?",
    response="At seven.",
    right=True,
    sources=3,
    support=[1],
    drops=Drops(2 * HALF_AS_LIKELY, 3.0),
    span={"at2": 1},
    whole={"at2": 1},
)
MISSED = replace(FOUND, query="Where?", span={"at2": 0}, whole={"at2": 1})
BY_HEART = replace(MISSED, query="Who?", drops=Drops(0.0, 0.0))
WRONG = replace(FOUND, query="How many?", response="Six.", right=False, span={}, whole={})


def test_shares_are_of_right_answers_and_then_of_those_that_rest_on_the_sentence() -> None:
    title, _, _, _, row, _ = table("Passages", [FOUND, MISSED, BY_HEART, WRONG], ["at2"])
    assert title.startswith("Passages: 3 of 4 answered right")
    assert "2 sentence, 0 elsewhere, 1 memory" in title
    counts = [cell.split("(")[1].split(")")[0] for cell in row.split("|")[2:-1]]
    assert counts == ["1 of 3", "3 of 3", "1 of 2", "2 of 2"]


def test_answers_to_one_question_do_not_narrow_an_interval() -> None:
    def width(answered: list[Answered]) -> float:
        low, high = share(answered, "at2", False).split("[")[1].split("]")[0].split(", ")
        return float(high) - float(low)

    hits = np.random.default_rng(0).random(40) < 0.8
    once = [replace(FOUND if hit else MISSED, query=str(i)) for i, hit in enumerate(hits)]
    others = [replace(one, query=f"{one.query} again") for one in once]
    assert width(once * 2) == width(once) > width(once + others)


def test_what_was_found_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    assert read(path) == read(None) == []
    path.write_text("".join(json.dumps(asdict(one)) + "\n" for one in (FOUND, WRONG)))
    assert read(path) == [FOUND, WRONG]
