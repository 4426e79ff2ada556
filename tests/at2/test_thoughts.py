"""Thoughts and earlier turns as sources beside documents."""

from typing import Any

import pytest

from at2.errors import InputError
from at2.methods import ContrastiveAttentionAttributor, LeaveOneOutAttributor
from at2.model.attention import attention_shape, weighed_scores
from at2.model.weighing import Weighings
from at2.tasks import (
    ConversationThoughtAttributionTask,
    Document,
    DocumentsContextAttributionTask,
    DocumentsThoughtAttributionTask,
    ThoughtAttributionTask,
)
from tests.helpers.attribution import tiny_pair
from tests.helpers.tasks import parts, thought_task

DOCUMENTS = [Document("Ada wrote it. The fox did not.", id="a"), Document("Ben read it.")]
TURNS = [
    {"role": "user", "content": "Find the author."},
    {"role": "assistant", "content": "I look."},
    {"role": "tool", "content": "Author: Ada. Year: 1843."},
]
OPENING = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "<|assistant|><think>\n"
)


def documents_task(**kwargs: Any) -> DocumentsThoughtAttributionTask:
    return DocumentsThoughtAttributionTask(DOCUMENTS, "Who?", *tiny_pair("byte_level"), **kwargs)


def check_places(task: Any) -> None:
    """Every source is its part of its document, and its tokens show it."""
    ranges, text = task.token_char_ranges, task.text
    for span, (first, last) in zip(task.source_spans, task.source_token_ranges, strict=True):
        assert task.source_documents[span.document].text[span.start : span.end] == span.text
        assert text[ranges[first][0] : ranges[last - 1][1]].strip() == span.text


def test_turns_are_documents_behind_those_of_the_prompt() -> None:
    task = DocumentsContextAttributionTask(
        DOCUMENTS,
        "Who?",
        *tiny_pair("byte_level"),
        previous_messages=TURNS,
        source_messages=[2],
    )
    task.set_generation("Ada did.")
    assert task.sources == [
        "Ada wrote it.",
        "The fox did not.",
        "Ben read it.",
        "Author: Ada.",
        "Year: 1843.",
    ]
    assert [span.document for span in task.source_spans] == [0, 0, 1, 4, 4]
    titles = [None, None, "user", "assistant", "tool"]
    assert [document.title for document in task.source_documents] == titles
    check_places(task)
    dropped = LeaveOneOutAttributor(task).get_attribution_scores()
    assert dropped.shape == (5,) and dropped.all()


def test_turns_that_are_not_there_are_no_sources() -> None:
    with pytest.raises(InputError, match="no message 3: there are 3") as caught:
        documents_task(previous_messages=TURNS, source_messages=[3])
    assert caught.value.param == "source_messages"


def test_documents_turns_and_thoughts_are_sources_together() -> None:
    task = documents_task(previous_messages=TURNS, source_messages=[0])
    task.set_generation("<think>\nI see. Ada did.\n</think>\n\nIt was Ada.")
    assert task.sources[-3:] == ["Find the author.", "I see.", "Ada did."]
    assert [span.document for span in task.source_spans] == [0, 0, 1, 2, 5, 5]
    assert task.target == "It was Ada."
    check_places(task)


def test_thoughts_follow_the_turns_of_a_conversation() -> None:
    task = ConversationThoughtAttributionTask(
        TURNS, *tiny_pair("byte_level"), source_messages=[2], source_type="document"
    )
    task.set_thoughts_and_response("The tool says Ada.", "Ada.")
    assert task.sources == ["Author: Ada. Year: 1843.", "The tool says Ada."]
    assert [span.document for span in task.source_spans] == [2, 3]
    check_places(task)


@pytest.mark.parametrize("template", [None, OPENING])
@pytest.mark.parametrize(
    ("thoughts", "response"),
    [
        ("Ada did.", "It was Ada."),
        ("It ends </think>\n\n here, or not.", "Ada."),
        ("<think>Twice.", "So </think>\n\nAda <|end|> it is."),
        ("", "Ada."),
        ("Ada did.", ""),
        ("\n Ada 🦜 \n", "  Ada."),
    ],
)
def test_given_thoughts_and_response_stay_what_they_are(
    template: str | None, thoughts: str, response: str
) -> None:
    task = documents_task(chat_template=template)
    task.set_thoughts_and_response(thoughts, response)
    assert task.thoughts == thoughts
    assert task.target.strip() == response.strip()
    assert task.generation.startswith("<think>\n") is (template is None)
    ids = task.generation_ids
    markers = [task.tokenizer.convert_tokens_to_ids(m) for m in ("<think>", "</think>", "<|end|>")]
    assert [ids.count(marker) for marker in markers] == [int(template is None), 1, 0]
    check_places(task)


def test_a_template_may_begin_the_thoughts() -> None:
    task = documents_task(chat_template=OPENING)
    task.set_generation("Ada, I thi")
    assert (task.thoughts, task.target, task.sources) == ("Ada, I thi", "", [])


def test_a_model_that_does_not_think_just_responds() -> None:
    task = documents_task()
    task.set_generation("Ada did. Surely.")
    assert (task.thoughts, task.target) == ("", "Ada did. Surely.")
    assert task.sources == ["Ada wrote it.", "The fox did not.", "Ben read it."]
    plain = DocumentsContextAttributionTask(DOCUMENTS, "Who?", *tiny_pair("byte_level"))
    plain.set_generation(task.generation)
    assert task.token_ids == plain.token_ids
    assert task.query_token_range == plain.query_token_range


def test_the_columns_of_all_sources_are_enough() -> None:
    task = documents_task(previous_messages=TURNS, source_messages=[0])
    task.set_thoughts_and_response("I see. Ada did.", "It was Ada.")
    whole = ContrastiveAttentionAttributor(task)
    shape = attention_shape(task.model)
    weighings = Weighings({"": whole.weighing}, shape.num_layers, shape.num_heads)
    scores = weighed_scores(
        task.model, task.marked_tokens, weighings, columns=task.sources_token_range
    )
    part = ContrastiveAttentionAttributor(task)
    part.use_token_scores(scores.of("", task.target_token_range))
    assert part.scores == pytest.approx(whole.scores, abs=1e-6)
    assert whole.scores.shape[1] == 6


def test_thoughts_are_the_sources_and_what_follows_is_the_target():
    task = thought_task(source_type="sentence")
    task.set_generation("Let me count. There are two.</think>\n\nTwo. Surely.")
    assert task.thoughts == "Let me count. There are two."
    assert task.response == task.target == "Two. Surely."
    assert task.sources == ["Let me count.", "There are two."]
    end_marker = task.tokenizer.convert_tokens_to_ids("</think>")
    position = task.token_ids.index(end_marker)
    assert task.thought_token_range == (task.generation_token_start, position)
    assert task.source_token_ranges[-1][1] == position
    for span in task.source_spans:
        assert task.thoughts[span.start : span.end] == span.text
    assert task.target_span(0, 4).text == "Two."
    assert [task.target[s:e] for s, e in task.statements] == ["Two.", "Surely."]


def test_opening_marker_and_single_line_break_are_understood():
    task = thought_task(source_type="token")
    task.set_generation("<think>\nTwo 🦜.</think>\nTwo.")
    assert task.thoughts == "Two 🦜."
    assert task.response == "Two."
    for span, (first, last) in zip(task.source_spans, task.source_token_ranges, strict=True):
        assert (last == first + 1) is ("🦜" not in span.text)
        assert task.thoughts[span.start : span.end] == span.text
    shown = {c for span in task.source_spans for c in range(span.start, span.end)}
    assert shown == set(range(len("Two 🦜.")))


def test_thoughts_without_an_end_give_no_sources_and_an_empty_target():
    task = thought_task()
    task.set_generation("Let me count. There")
    assert task.num_sources == 0
    assert task.has_empty_target
    assert task.target == ""
    assert task.thoughts == "Let me count. There"
    with pytest.raises(InputError, match="thoughts never end"):
        _ = task.response


def test_thoughts_with_nothing_after_them_have_an_empty_target():
    task = thought_task(source_type="sentence")
    task.set_generation("Let me count.</think>\n\n")
    assert task.sources == ["Let me count."]
    assert (task.has_empty_target, task.response) == (True, "")


def test_documents_come_before_thoughts():
    class Both(ThoughtAttributionTask):
        prompt = "Two apples. How many?"

        def _get_document_ranges(self):
            return [(0, 11)]

    task = Both(*parts(), source_type="sentence")
    task.set_generation("I see two.</think>\n\nTwo.")
    assert task.sources == ["Two apples.", "I see two."]
    assert [(s.index, s.document) for s in task.source_spans] == [(0, 0), (1, 1)]
    task.set_generation("Hm.</think>\n\nTwo.")
    assert task.sources == ["Two apples.", "Hm."]
