"""Statements of a response are noticed as they end, and asked about no more often than that."""

import random

import pytest

from at2.text.sentences import split_sentences
from service.statement_ends import LOOK_AHEAD, StatementEnds

TEXTS = {
    "sentences": "It opens at seven. It is heated, e.g. in May; Dr. Lee (the owner) says so! " * 4,
    "bullets": "The pool is open:\n\n" + "- it has three lanes of fifty metres\n" * 8,
    "numbers": "\n".join(f"{n}. **Lane {n}** is for those who swim slowly." for n in range(1, 9)),
    "Chinese": "游泳池早上七点开门。储物柜需要一欧元硬币。" * 8,
    "paragraphs": "\n\n\n".join(["A line that stands for itself"] * 5),
    "line breaks of all kinds": "\v".join(["A line\x85", "Another one\u2028", "A third\r"] * 4),
    "rules": "One thing is said.\n\n---\n\n***\n\nAnother thing is said, and it is a long one.\n"
    * 3,
    "one": "no end of it in sight, " * 20,
}


def _pieces(text: str, seed: int) -> list[str]:
    """A text as it grows, by tokens of some length."""
    sizes, ends = random.Random(seed), [0]
    while ends[-1] < len(text):
        ends.append(ends[-1] + sizes.randint(1, 6))
    return [text[:end] for end in ends[1:]]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_each_statement_is_noticed_once_and_soon(text: str) -> None:
    statements = split_sentences(text)
    for seed in range(3):
        ends, told = StatementEnds(), []
        for so_far in _pieces(text, seed):
            if ends.step(so_far):
                told.append(len(so_far))
        complete = [start + LOOK_AHEAD for start, _ in statements[1:]]
        expected = [length for length in complete if length <= len(text)]
        assert len(told) <= len(expected)
        for length in expected:  # at the first piece that has enough of what follows it
            assert any(length <= at < length + 6 for at in told)


def test_nothing_has_ended_before_enough_of_what_follows_is_there() -> None:
    ends = StatementEnds()
    text = "One ended. " + "x" * (LOOK_AHEAD - 1)
    assert not any(ends.step(text[:length]) for length in range(1, len(text) + 1))
    assert ends.step(f"{text}x") and not ends.step(f"{text}xx")
