"""Sources of every level: nested, without gaps that score, and with scores that add up."""

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from at2 import (
    AT2Attributor,
    AttentionFeatureExtractor,
    AverageAttentionAttributor,
    LinearScoreEstimator,
)
from at2.errors import InputError
from at2.tasks import (
    SOURCE_TYPES,
    ConversationAttributionTask,
    Document,
    DocumentsContextAttributionTask,
    SimpleThoughtAttributionTask,
)
from at2.tasks.sources import PlacedText, cut_documents
from tests.helpers.attribution import tiny_pair

# A token of these may reach over a bullet, the end of a sentence or a line.
AWKWARD = [
    "-The",
    "•the",
    "1. ",
    "--",
    "\n\n",
    "\r\n",
    ". ",
    ".\n",
    ".The ",
    "(of)",
    "  ",
    "¡",
    "…",
    "12\n",
    "| 1 | 2 |\n",
    "\n```\n",
    "<br>",
]
texts = st.lists(
    st.sampled_from([*AWKWARD, "The fox. ", "It was 42! ", "Ada wrote it", "你好。", "🦜", "é"])
    | st.text(max_size=3),
    max_size=10,
).map("".join)


@cache
def estimator() -> LinearScoreEstimator:
    made = LinearScoreEstimator(AttentionFeatureExtractor(3, 4, exponents=(1, 0.5)))
    torch.nn.init.normal_(made.linear.weight, generator=torch.Generator().manual_seed(0))
    return made


def tasks_of(kind: str, contexts: list[str], thoughts: str | None = None) -> dict[str, Any]:
    """The same documents, or thoughts, at every level."""
    model, tokenizer = tiny_pair(kind)
    tasks: dict[str, Any] = {}
    for level in SOURCE_TYPES:
        if thoughts is not None:
            task: Any = SimpleThoughtAttributionTask("Who?", model, tokenizer, source_type=level)
            task.set_generation(f"<think>\n{thoughts}</think>\n\nAda did.")
        else:
            documents = [Document(text) for text in contexts]
            task = DocumentsContextAttributionTask(
                documents, "Who?", model, tokenizer, source_type=level
            )
            task.set_generation("Ada did.")
        tasks[level] = task
    return tasks


def owners(task: Any) -> dict[int, int]:
    """The source of each token that has one."""
    return {
        token: index
        for index, (first, last) in enumerate(task.source_token_ranges)
        for token in range(first, last)
    }


def check_nesting(tasks: dict[str, Any]) -> None:
    for coarse, fine in pairwise(SOURCE_TYPES):
        of_coarse, of_fine = owners(tasks[coarse]), owners(tasks[fine])
        coarse_spans, fine_spans = tasks[coarse].source_spans, tasks[fine].source_spans
        if fine in ("paragraph", "sentence"):  # words may stand between sentences
            assert of_fine.keys() <= of_coarse.keys()
        for token, index in of_fine.items():
            if token in of_coarse:
                inner, outer = fine_spans[index], coarse_spans[of_coarse[token]]
                assert inner.document == outer.document
                if fine != "token":
                    assert outer.start <= inner.start and inner.end <= outer.end


def check_sums(tasks: dict[str, Any]) -> None:
    scores = {
        level: AT2Attributor(task, estimator()).get_attribution_scores().astype(float)
        for level, task in tasks.items()
    }
    assert all(np.isfinite(values).all() for values in scores.values())
    for coarse, fine in pairwise(SOURCE_TYPES):
        of_coarse, of_fine = owners(tasks[coarse]), owners(tasks[fine])
        sums = np.zeros(tasks[coarse].num_sources)
        # 1. the finer sources in it  2. the tokens in it that belong to none
        for index, (first, last) in enumerate(tasks[fine].source_token_ranges):
            if first < last and first in of_coarse:
                sums[of_coarse[first]] += scores[fine][index]
        for score, (first, _) in zip(
            scores["token"], tasks["token"].source_token_ranges, strict=True
        ):
            if first in of_coarse and first not in of_fine:
                sums[of_coarse[first]] += score
        np.testing.assert_allclose(sums, scores[coarse], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["byte_level", "byte_level_trim", "metaspace_first", "unigram"])
@settings(max_examples=40)
@given(contexts=st.lists(texts, min_size=1, max_size=3))
def test_a_finer_source_is_never_outside_a_coarser_one(kind: str, contexts: list[str]) -> None:
    check_nesting(tasks_of(kind, contexts))


@settings(max_examples=40)
@given(thoughts=texts.filter(lambda text: "think>" not in text))
def test_thoughts_are_nested_as_documents_are(thoughts: str) -> None:
    check_nesting(tasks_of("byte_level", [], thoughts))


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
@settings(max_examples=15)
@given(contexts=st.lists(texts, min_size=1, max_size=2))
def test_scores_of_every_level_add_up(kind: str, contexts: list[str]) -> None:
    check_sums(tasks_of(kind, contexts))


@settings(max_examples=10)
@given(thoughts=texts.filter(lambda text: "think>" not in text))
def test_scores_of_thoughts_add_up(thoughts: str) -> None:
    check_sums(tasks_of("byte_level", [], thoughts))


def test_a_token_over_a_bullet_and_a_word_goes_to_the_word_as_to_its_sentence() -> None:
    text = "One.\n• Two."
    tokens = [(0, 3), (3, 5), (5, 10), (10, 11)]  # "One", ".\n", "• Two", "."

    def cut(level: str) -> list[tuple[str, tuple[int, int]]]:
        pieces = cut_documents(text, tokens, [PlacedText(text, 0, 0, len(text))], level)
        return [(text[piece.start : piece.end], piece.tokens) for piece in pieces]

    assert cut("sentence") == [("One.", (0, 2)), ("Two.", (2, 4))]
    assert cut("word") == [
        ("One", (0, 1)),
        (".", (1, 2)),
        ("•", (2, 2)),
        ("Two", (2, 3)),
        (".", (3, 4)),
    ]


@settings(max_examples=40)
@given(context=texts)
def test_all_that_is_visible_is_in_a_word(context: str) -> None:
    task = tasks_of("byte_level", [context])["word"]
    assert "".join(task.sources) == "".join(
        c for c in context if not c.isspace() and c not in "\x1c\x1d\x1e\x1f"
    )
    encoded, owned = task.encoded_prompt.encoded, owners(task)
    document = tasks_of("byte_level", [context])["document"]
    for first, last in document.source_token_ranges:
        for token in range(first, last):
            start, end = encoded.ranges[token]
            assert token in owned or not encoded.text[start:end].strip()


def test_numbers_without_a_sentence_are_words_with_tokens() -> None:
    task = tasks_of("byte_level", ["--- 42\n\n1. 7"])["word"]
    assert task.sources == ["---", "42", "1", ".", "7"]
    assert all(first < last for first, last in task.source_token_ranges)


@pytest.mark.parametrize("kind", ["byte_level", "metaspace_first"])
def test_tokens_that_together_make_a_character_are_one_source(kind: str) -> None:
    tasks = tasks_of(kind, ["It is a 🦜 now.", "🦜"])
    task = tasks["token"]
    holding = [
        (source, last - first)
        for source, (first, last) in zip(task.sources, task.source_token_ranges, strict=True)
        if "🦜" in source
    ]
    assert [source.strip() for source, _ in holding] == ["🦜", "🦜"]
    assert all(count > 1 for _, count in holding)
    assert all(
        last - first == 1
        for source, (first, last) in zip(task.sources, task.source_token_ranges, strict=True)
        if "🦜" not in source
    )
    check_sums(tasks)


@pytest.mark.parametrize(
    "context", ["12\n13.5\n14", "265086", "a,b,c\n1,2,3\n4,5,6", "| 1 | 2 |\n|---|---|\n| 3 | 4 |"]
)
def test_figures_of_tables_and_lists_belong_to_sentences_that_add_up(context: str) -> None:
    tasks = tasks_of("byte_level", [context])
    figures = [char for char in context if char.isdigit()]
    for level in ("paragraph", "sentence", "word"):
        assert [c for source in tasks[level].sources for c in source if c.isdigit()] == figures
    check_sums(tasks)


def test_a_character_that_begins_in_the_token_of_a_sentence_stays_in_one_source() -> None:
    text = "One.🦜Two."
    tokens = [(0, 3), (3, 5), (4, 5), (4, 5), (5, 8), (8, 9)]  # ".🦜" begins with the stop

    def cut(level: str) -> list[tuple[int, int]]:
        pieces = cut_documents(text, tokens, [PlacedText(text, 0, 0, len(text))], level)
        return [piece.tokens for piece in pieces if piece.tokens[0] < piece.tokens[1]]

    assert cut("document") == [(0, 6)]
    assert cut("token") == [(0, 1), (1, 4), (4, 5), (5, 6)]
    for coarse, fine in pairwise(SOURCE_TYPES):
        assert all(
            any(a <= first and last <= b for a, b in cut(coarse)) for first, last in cut(fine)
        )


def test_turns_of_a_chat_are_documents() -> None:
    model, tokenizer = tiny_pair("byte_level")
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Ada wrote it. The fox did not."},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "Who wrote it?"},
    ]
    task = ConversationAttributionTask(messages, model, tokenizer)
    task.set_generation("Ada.")
    assert task.sources == ["You are terse.", "Ada wrote it.", "The fox did not.", "I see."]
    assert [span.document for span in task.source_spans] == [0, 1, 1, 2]
    assert [document.title for document in task.source_documents][:2] == ["system", "user"]
    for span, tokens in zip(task.source_spans, task.source_token_ranges, strict=True):
        assert messages[span.document]["content"][span.start : span.end] == span.text
        start, end = task.encoded_prompt.encoded.text_range(*tokens)
        assert task.input_text[start:end].strip() == span.text
    assert AT2Attributor(task, estimator()).get_attribution_scores().shape == (4,)

    chosen = ConversationAttributionTask(
        messages, model, tokenizer, source_messages=[1, 3], source_type="document"
    )
    assert chosen.sources == ["Ada wrote it. The fox did not.", "Who wrote it?"]
    assert [span.document for span in chosen.source_spans] == [1, 3]


def test_a_turn_that_the_template_does_not_show_scores_nothing() -> None:
    model, tokenizer = tiny_pair("byte_level")
    messages = [
        {"role": "user", "content": "Hm?"},
        {"role": "assistant", "content": "<think>Let me see.\n</think>\nIt is Ada."},
        {"role": "user", "content": "Who?"},
    ]
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'].split('</think>')[-1] }}<|end|>"
        "{% endfor %}<|assistant|>"
    )
    task = ConversationAttributionTask(messages, model, tokenizer, chat_template=template)
    task.set_generation("Ada.")
    scores = dict(
        zip(task.sources, AverageAttentionAttributor(task).get_attribution_scores(), strict=True)
    )
    assert scores["It is Ada."] > 0
    assert [s for text, s in scores.items() if "see" in text] == [0.0]


@pytest.mark.parametrize(
    ("messages", "chosen", "said"),
    [
        ([], None, "no messages"),
        ([{"role": "user", "content": "Hi"}], [1], "no message 1: there are 1"),
        ([{"role": "user", "content": "Hi"}], [-1], "no message -1"),
    ],
)
def test_turns_that_are_not_there_are_refused(messages: Any, chosen: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        ConversationAttributionTask(messages, *tiny_pair("byte_level"), source_messages=chosen)
