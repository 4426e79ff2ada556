"""The natural passages are whole: a question is answered where the file says, and only there."""

import re
from collections import Counter
from dataclasses import replace
from statistics import mean

import pytest

from at2.evaluation import overlapping_sources
from at2.text.sentences import split_sentences
from tests.helpers.attribution import small_llama
from tests.helpers.passages import Passage, Question, read_passages
from tests.helpers.tokenizers import tiny_tokenizer

PASSAGES = read_passages()
QUESTIONS = [(passage, question) for passage in PASSAGES for question in passage.questions]
by_id = pytest.mark.parametrize("passage", PASSAGES, ids=lambda passage: passage.id)


def _place(passage: Passage, question: Question) -> tuple[int, int]:
    """The first supporting sentence's number in its document, and how many there are."""
    sentences = passage.sentences(question.document)
    return sentences.index(question.support[0]), len(sentences)


def test_there_are_enough_of_many_kinds() -> None:
    assert len(PASSAGES) >= 30
    assert len({passage.kind for passage in PASSAGES}) >= 30
    assert len(QUESTIONS) >= 100
    assert sum(len(passage.documents) > 1 for passage in PASSAGES) >= 3


def test_ids_texts_and_questions_are_unique() -> None:
    texts = [document.text for passage in PASSAGES for document in passage.documents]
    questions = [(passage.id, question.question) for passage, question in QUESTIONS]
    for values in ([passage.id for passage in PASSAGES], texts, questions):
        assert [value for value, count in Counter(values).items() if count > 1] == []


def test_most_are_short_and_some_are_long() -> None:
    lengths = [
        sum(len(passage.sentences(number)) for number in range(len(passage.documents)))
        for passage in PASSAGES
    ]
    assert min(lengths) >= 4
    assert sum(length <= 15 for length in lengths) >= 30
    assert sum(20 <= length <= 30 for length in lengths) >= 3
    assert max(lengths) <= 30


@by_id
def test_support_is_a_sentence_and_stands_once(passage: Passage) -> None:
    assert passage.questions
    for question in passage.questions:
        text = passage.documents[question.document].text
        sentences = passage.sentences(question.document)
        assert question.support
        for sentence in question.support:
            assert text.count(sentence) == 1, question
            assert sentences.count(sentence) == 1, question


@by_id
def test_answer_is_in_its_support_and_nowhere_else(passage: Passage) -> None:
    for question in passage.questions:
        assert any(question.answer in sentence for sentence in question.support), question
        holds = [
            (number, sentence)
            for number in range(len(passage.documents))
            for sentence in passage.sentences(number)
            if question.is_answered_by(sentence)
        ]
        assert set(holds) <= {(question.document, sentence) for sentence in question.support}
        assert not question.is_answered_by(question.question), question


@by_id
def test_texts_are_plain(passage: Passage) -> None:
    for document in passage.documents:
        for text in (document.text, document.title or "title"):
            assert text == text.strip()
            assert not re.search(r"  |\t|\r| \n|\n\n", text), passage.id
    for question in passage.questions:
        for text in (question.question, question.answer):
            assert text == text.strip() != ""
        assert question.question.endswith("?")


def test_answers_lie_evenly_over_the_sentences() -> None:
    """A method that always names one place of the text finds few of them."""
    places = [_place(passage, question) for passage, question in QUESTIONS]
    fifths = Counter(int(5 * (k + 0.5) / n) for k, n in places)
    for fifth in range(5):
        assert 0.15 <= fifths[fifth] / len(places) <= 0.25, fifths
    assert 0.45 <= mean((k + 0.5) / n for k, n in places) <= 0.55
    first = sum(k == 0 for k, _ in places)
    last = sum(k == n - 1 for k, n in places)
    assert max(first, last) / len(places) <= 0.12


def test_answers_of_several_documents_are_in_all_of_them() -> None:
    for passage in PASSAGES:
        used = {question.document for question in passage.questions}
        assert used == set(range(len(passage.documents))), passage.id


# -- the loader ----------------------------------------------------------------------------------


def test_an_answer_is_found_as_whole_words_only() -> None:
    question = replace(QUESTIONS[0][1], answer="£240")
    assert question.answer_range("It costs £240.") == (9, 13)
    assert not question.is_answered_by("It costs £2400.")
    ship = replace(question, answer="the ship")
    assert ship.is_answered_by("The ship is old.")
    assert not ship.is_answered_by("The shipping is late.")
    assert not ship.is_answered_by("")


def test_support_is_found_among_the_sources_of_a_task() -> None:
    tokenizer = tiny_tokenizer("byte_level")
    model = small_llama()
    passage = next(passage for passage in PASSAGES if len(passage.documents) > 1)
    for question in passage.questions:
        task = passage.task(question, model, tokenizer)
        task.set_generation(question.answer)
        sources = overlapping_sources(task, passage.support_ranges(question))
        spans = [task.source_spans[index] for index in sources]
        assert {span.document for span in spans} == {question.document}
        assert sorted(span.text for span in spans) == sorted(question.support)
        assert task.num_sources == sum(
            len(split_sentences(document.text)) for document in passage.documents
        )
