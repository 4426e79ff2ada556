"""The generated world: what it says is true, and the test split shares no name with training."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_jobs.bundled.names import NameSource, is_held_out
from trainer_jobs.bundled.relations import NOT_MENTIONED, RELATIONS
from trainer_jobs.bundled.world import Example, World

_WORDS_OF_KINDS = ("first", "last", "town")


def _examples(seed: int, **settings: object) -> list[Example]:
    rng = Random(seed)
    world = World(**settings)  # type: ignore[arg-type]
    return [world.example(rng, rng.randint(1, 20), 12) for _ in range(20)]


@given(st.integers(0, 2**32))
def test_training_and_test_names_never_share_a_part(seed: int) -> None:
    for held_out in (False, True):
        source = NameSource(held_out=held_out)
        rng = Random(seed)
        for kind in _WORDS_OF_KINDS:
            assert is_held_out(source.word(rng, kind, set())) is held_out


@pytest.mark.parametrize("seed", range(5))
def test_the_supporting_sentence_holds_subject_and_value_of_a_single_answer(seed: int) -> None:
    answers = {r.answer.format(s="\0", v="\1"): r for r in RELATIONS}
    for example in _examples(seed):
        for question in example.questions:
            if question.kind != "single":
                continue
            (index,) = question.support
            sentence = example.sentences[index]
            matches = [
                pattern
                for pattern in answers
                if all(part in question.answer for part in pattern.replace("\1", "\0").split("\0"))
            ]
            assert matches
            words = set(question.answer.rstrip(".").split()) - set(
                " ".join(matches).replace("\0", " ").replace("\1", " ").split()
            )
            assert all(word in sentence for word in words), (sentence, question)


@pytest.mark.parametrize("seed", range(5))
def test_answers_about_a_subject_follow_the_order_of_the_source(seed: int) -> None:
    abouts = [q for e in _examples(seed) for q in e.questions if q.kind == "about"]
    assert abouts
    for question in abouts:
        assert list(question.support) == sorted(question.support)
        assert question.answer.count(".") == len(question.support) in (1, 2)


@pytest.mark.parametrize("seed", range(5))
def test_a_question_about_a_hidden_sentence_is_not_answerable(seed: int) -> None:
    for example in _examples(seed, removal=1.0):
        for question in example.questions:
            assert all(example.kept[i] for i in question.support)
            assert (question.answer == NOT_MENTIONED) == (not question.support)


def test_the_same_seed_gives_the_same_world() -> None:
    assert _examples(3) == _examples(3)
    assert _examples(3) != _examples(4)
