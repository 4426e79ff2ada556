"""Spans and parts of the target, in characters and in tokens."""

from itertools import pairwise

import pytest

from at2.errors import InputError, SpanError
from at2.tasks.sources import TARGET_PARTS
from tests.helpers.tasks import context_task, thought_task


def test_span_inside_one_emoji_widens_to_its_tokens():
    task = context_task()
    task.set_generation("a 🦜 b")
    span = task.target_span(2, 3)
    assert span.token_end - span.token_start > 1
    assert span.text.strip() == "🦜"


def test_span_on_white_space_widens_to_the_word_that_carries_it():
    task = context_task()
    task.set_generation("the fox of the")
    span = task.target_span(3, 4)
    assert (span.start, span.text) == (3, " fox"[: len(span.text)])
    assert task.target_range_to_token_range(3, 4, relative=True)[0] > 0


@pytest.mark.parametrize("span", [(0, 0), (3, 3), (4, 2), (-1, 2), (0, 99), (99, 100)])
def test_impossible_spans_are_refused_with_the_numbers(span):
    task = context_task()
    task.set_generation("abcdef")
    with pytest.raises(SpanError, match=rf"\({span[0]}, {span[1]}\).*6 characters"):
        task.target_range_to_token_range(*span)


def test_span_of_an_empty_response_is_refused():
    task = context_task()
    task.set_generation("")
    assert task.has_empty_target
    assert task.statements == task.get_sub_target_token_ranges("sentence") == []
    with pytest.raises(SpanError, match="0 characters"):
        task.target_span()


def test_parts_of_the_target_are_disjoint_and_in_order():
    task = context_task()
    task.set_generation("One is here. Two is there.\nThe 3rd!")
    total = len(task.target_ids)
    assert task.get_sub_target_token_ranges(relative=True) == [(0, total)]
    assert task.get_sub_target_token_ranges("token", relative=True)[-1] == (total - 1, total)
    for split_by in ("word", "sentence", "paragraph"):
        ranges = task.get_sub_target_token_ranges(split_by)
        assert all(a < b for a, b in ranges)
        assert all(b <= c for (_, b), (c, _) in pairwise(ranges))
        assert ranges[0][0] == task.target_token_range[0]
        assert ranges[-1][1] == task.target_token_range[1]
    for none in ("verse", "document"):
        with pytest.raises(
            InputError, match=f"'{none}': not one of {', '.join(TARGET_PARTS)}, None"
        ):
            task.get_sub_target_token_ranges(none)


def test_statements_cut_sentences_and_a_bare_number_is_one():
    task = context_task()
    task.set_generation(" One is here. Two is there.")
    assert [task.target[s:e] for s, e in task.statements] == ["One is here.", "Two is there."]
    task.set_generation(" 42\n")
    assert task.statements == [(1, 3)]
    (figures,) = task.get_sub_target_token_ranges("sentence", relative=True)
    assert task.token_range_text(*figures).strip() == "42"
    task.set_generation("👍")
    assert task.statements == [(0, 1)]
    assert task.get_sub_target_token_ranges("sentence") == []


@pytest.mark.parametrize("tags", [("<think>", "</think>"), ("<|think|>", "<|/think|>")])
def test_tag_around_thoughts_is_no_statement(tags):
    opening, closing = tags
    task = context_task()
    task.set_generation(f"{opening}\nOne. Two.\n{closing}\n\n42")
    assert [task.target[s:e] for s, e in task.statements] == ["One.", "Two.", "42"]
    task.set_generation(f"{opening}One. Two.{closing}Three.")
    assert [task.target[s:e] for s, e in task.statements] == ["One.", "Two.", "Three."]
    task.set_generation(f"{opening}\n")
    assert task.statements == []


def test_indices_are_printed_before_each_sentence(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    task = context_task()
    task.set_generation("One is here. Two is there.")
    task.show_target_with_indices()
    first, second = "\033[36m[(0, 12)]\033[0mOne is here.", "\033[36m[(13, 26)]\033[0mTwo is there."
    assert capsys.readouterr().out == f"{first} {second}\n"


@pytest.mark.parametrize(
    ("quote", "occurrence", "found"),
    [
        ("Two", None, (13, 16)),
        ("is", 0, (4, 6)),
        ("is", 1, (17, 19)),
        ("One is here. Two is there.", None, (0, 26)),
        ("ere", 1, (22, 25)),
        (" ", 2, (12, 13)),
    ],
)
def test_quoted_text_is_found(quote, occurrence, found):
    task = context_task()
    task.set_generation("One is here. Two is there.")
    assert task.find_span(quote, occurrence) == found
    assert task.target[slice(*found)] == quote
    assert quote in task.target_span(*found).text


@pytest.mark.parametrize(
    ("quote", "occurrence", "param", "said"),
    [
        ("one", None, "text", "does not say 'one'"),
        ("", None, "text", "is empty"),
        ("is", None, "occurrence", "says 'is' 2 times, first at 4 and 17.*from 0 to 1"),
        ("is", 2, "occurrence", "occurrence 2 of 'is': the response says it 2 times"),
        ("is", -1, "occurrence", "occurrence -1"),
        ("x" * 999, None, "text", "x…'"),
    ],
)
def test_a_quotation_that_is_not_one_place_is_refused(quote, occurrence, param, said):
    task = context_task()
    task.set_generation("One is here. Two is there.")
    with pytest.raises(SpanError, match=said) as caught:
        task.find_span(quote, occurrence)
    assert caught.value.param == param
    assert len(str(caught.value)) < 200


def test_a_quotation_counts_within_the_target():
    task = thought_task()
    task.set_generation("Two, I think.</think>\n\nIt is Two.")
    assert task.find_span("Two") == (6, 9)


def test_any_range_of_tokens_is_cut_into_parts():
    task = context_task()
    task.set_generation("One is here. Two is there.")
    whole = (0, len(task.token_ids))
    for split_by in ("word", "sentence", "paragraph", "token"):
        parts = task.get_sub_token_ranges(whole, split_by)
        assert all(a < b for a, b in parts)
        assert all(b <= c for (_, b), (c, _) in pairwise(parts))
        of_target = task.get_sub_target_token_ranges(split_by)
        assert of_target == task.get_sub_token_ranges(task.target_token_range, split_by)
    assert task.get_sub_token_ranges((3, 3), "word") == []
