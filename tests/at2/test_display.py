"""What people look at: users' text stays text on a page, in a table and in a terminal."""

import base64
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from at2 import AverageAttentionAttributor
from at2.display import attribution_page, highlight, printable, score_table, with_indices
from at2.errors import SpanError
from at2.tasks import Document, DocumentsContextAttributionTask, SimpleContextAttributionTask
from tests.helpers import browser as browsers
from tests.helpers.models import tiny_model
from tests.helpers.pages import HOSTILE, Page
from tests.helpers.tokenizers import tiny_tokenizer

RESPONSE = "Ada wrote it. The fox did not."


def attributor_of(
    documents: list[Document], query: str = "Who?", response: str = RESPONSE, **settings: Any
) -> AverageAttentionAttributor:
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=4096)
    settings.setdefault("source_type", "sentence")
    task = DocumentsContextAttributionTask(documents, query, model, tokenizer, **settings)
    task.set_generation(response)
    return AverageAttentionAttributor(task)


def hostile_attributor() -> AverageAttentionAttributor:
    documents = [Document(f"One is here. {text} Two.", id=text, title=text) for text in HOSTILE]
    return attributor_of(documents, query=" ".join(HOSTILE), response=f"{RESPONSE} {HOSTILE[0]}")


# The page


def test_the_page_shows_texts_and_scores() -> None:
    attributor = attributor_of(
        [Document("Ada wrote the program. It ran.", title="First"), Document("The fox is lazy.")]
    )
    page = Page(attribution_page(attributor, title="A & B"))
    assert page.texts["title"] == page.texts["h1"] == ["A & B"]
    assert page.texts["h3"] == ["First", "Document 2"]
    assert page.texts["mark"] == attributor.task.sources
    assert [a["id"] for a in page.attributes("mark")] == ["source-0", "source-1", "source-2"]
    chosen = [(a["data-choice"], a["tabindex"]) for a in page.attributes("span")]
    assert chosen == [("1", "0"), ("2", "0"), ("0", "0")]  # two statements, and all of it
    data = json.loads(page.texts["script"][0])
    for row, span in zip(data["scores"], [(0, 30), (0, 13), (14, 30)], strict=True):
        np.testing.assert_allclose(row, attributor.get_attribution_scores(*span), rtol=1e-5)


def test_hostile_text_adds_no_element_and_no_attribute() -> None:
    plain = Page(attribution_page(attributor_of([Document("One. Two.")])))
    hostile = Page(attribution_page(hostile_attributor(), title="".join(HOSTILE)))
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in plain.elements} | {"small"}
    assert len(hostile.attributes("script")) == 2 and len(hostile.attributes("style")) == 1
    known = {name for _, attributes in plain.elements for name in attributes}
    assert {name for _, attributes in hostile.elements for name in attributes} <= known
    for text in HOSTILE:
        assert any(text in shown for shown in hostile.texts["h3"])
        assert any(text in shown for shown in hostile.texts["p"])


@settings(max_examples=30)
@given(text=st.text(max_size=40) | st.sampled_from(HOSTILE))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    attributor = attributor_of([Document(f"One. {text}", title=text)], query=text or "Who?")
    page = Page(attribution_page(attributor, title=text))
    assert page.texts["mark"] == attributor.task.sources
    assert page.texts["h1"] == [text]


def test_the_page_loads_nothing_and_runs_one_script_only() -> None:
    text = attribution_page(hostile_attributor())
    page = Page(text)
    policy = page.attributes("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy and "http" not in policy
    hashes = set(re.findall(r"'sha256-([^']+)'", policy))
    made = {
        base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        for content in [page.texts["style"][0], page.texts["script"][1]]
    }
    assert hashes == made
    for tag, attributes in page.elements:
        assert not {"src", "href", "style", "srcset", "action"} & attributes.keys(), tag
        assert not any(name.startswith("on") for name in attributes)
    assert "http" not in page.texts["style"][0] and "url(" not in page.texts["style"][0]


def test_chosen_spans_take_the_place_of_sentences() -> None:
    attributor = attributor_of([Document("One. Two.")])
    page = Page(attribution_page(attributor, spans=[(14, 21), (0, 3)]))
    assert page.texts["span"][:2] == ["Ada", "The fox"]
    whole = Page(attribution_page(attributor, spans=[(0, len(RESPONSE))]))
    assert [a["data-choice"] for a in whole.attributes("span")] == ["0"]
    with pytest.raises(SpanError):
        attribution_page(attributor, spans=[(0, 99)])


@pytest.mark.parametrize("response", ["", " \n", "42"])
def test_responses_without_a_sentence_have_a_page(response: str) -> None:
    page = Page(attribution_page(attributor_of([Document("One. Two.")], response=response)))
    data = json.loads(page.texts["script"][0])
    assert len(data["scores"]) == (1 if response.strip() else 0)


def test_a_context_without_sources_has_a_page() -> None:
    page = Page(attribution_page(attributor_of([Document("")])))
    assert "mark" not in page.texts
    assert json.loads(page.texts["script"][0])["scores"] == [[], [], []]


def unscored_attributor() -> AverageAttentionAttributor:
    """Of five sources, of which two have no score, as where a model overflows."""
    task = attributor_of([Document("One is here. Two is. Three is. Four is. Five is.")]).task
    scores = np.tile([0.5, np.nan, 0.25, np.inf, -1], (len(task.target_ids), 1))
    return AverageAttentionAttributor(task, {"scores": scores.T})


def test_scores_that_are_no_numbers_are_null_on_the_page() -> None:
    page = Page(attribution_page(unscored_attributor()))

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    data = json.loads(page.texts["script"][0], parse_constant=refuse)
    assert data["scores"][0] == [0.5, None, 0.25, None, -1]


@pytest.mark.skipif(
    browsers.CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium here"
)
def test_sources_without_a_score_are_not_ranked_by_the_page(tmp_path: Path) -> None:
    path, folder = tmp_path / "page.html", tmp_path.as_uri()
    path.write_text(attribution_page(unscored_attributor()), encoding="utf-8")
    with browsers.chromium() as browser, browsers.visit(browser, folder, path.as_uri()) as page:
        ranking = page.locator("#ranking .score").all_text_contents()
        titles = [mark.get_attribute("title") for mark in page.locator("mark").all()]
    assert ranking == ["0.5000", "0.2500", "-1.0000"]
    assert titles == ["score 0.5000", "no score", "score 0.2500", "no score", "score -1.0000"]


def test_the_place_of_a_model_is_not_shown() -> None:
    attributor = attributor_of([Document("One.")])
    attributor.task.model.name_or_path = "/somewhere/private/my-model"
    page = attribution_page(attributor)
    assert "my-model" in page and "private" not in page


# The table


def test_the_table_is_html_in_a_notebook_and_text_in_a_terminal() -> None:
    sources = [f"One {text}\nand more" for text in HOSTILE]
    scores = np.array([0.1, np.nan, -0.5, 0.25, 0.0], dtype=np.float32)
    table = score_table(scores, sources, 3, "RdBu")
    html = table.to_html()
    assert "<script>" not in html and "&lt;" in html and "<b>" not in html
    assert html.count("background-color") >= 3
    (table_tag,) = [attributes for tag, attributes in Page(html).elements if tag == "table"]
    assert {"tex2jax_ignore", "mathjax_ignore"} <= set(table_tag["class"].split())
    lines = str(table).splitlines()
    assert lines[0].split() == ["Score", "Source"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["0", "0.250"],
        ["1", "0.100"],
        ["2", "0.000"],
    ]
    assert "and more" in lines[1]
    assert str(score_table(scores[:0], [], 3, "RdBu")).split() == ["Score", "Source"]


# The terminal


def test_no_control_character_reaches_a_terminal() -> None:
    control = "".join(map(chr, [*range(32), 127, *range(128, 160)]))
    shown = printable(f"a{control}b")
    assert len(shown) == len(control) + 2
    assert {c for c in shown if not c.isprintable()} == {"\t", "\n"}
    assert printable("one\rtwo\r\nthree\r") == "one␍two\r\nthree␍"
    assert printable("\u202egnp.exe\u2066") == "�gnp.exe�"
    assert printable("Ünïcode 🦜 你好") == "Ünïcode 🦜 你好"


def highlighted(response: str = RESPONSE, **settings: Any) -> tuple[Any, str]:
    attributor = attributor_of([Document("Ada wrote it. \x1b[2J The fox.")], response=response)
    task = attributor.task
    scores = np.array([1.0, -0.5, 0.0][: task.num_sources], dtype=np.float32)
    return task, highlight(task, (0, 3), scores, **settings)


def test_colours_are_all_that_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    task, shown = highlighted()
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == printable(task.text)
    assert "\x1b[2J" not in shown and "␛[2J" in shown
    assert shown.count("\x1b[48;2;255;255;0m") == 1
    blue, red = "\x1b[48;2;1;1;255m\x1b[38;2;255;255;255m", "\x1b[48;2;255;128;128m"
    assert f"{blue}Ada wrote it." in shown and red in shown


def test_brackets_take_the_place_of_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    task, shown = highlighted(max_score=2.0)
    assert "\x1b" not in shown
    assert "[+50%: Ada wrote it.]" in shown and "[-25%: " in shown
    first, last = (task.target_token_range[0] + i for i in (0, 3))
    text = task.text[task.token_char_ranges[first][0] : task.token_char_ranges[last - 1][1]]
    assert f"[[{text}]]" in shown
    assert with_indices("One. Two.") == "[(0, 4)]One. [(5, 9)]Two."


def test_indices_are_before_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    first, second = "\x1b[36m[(0, 3)]\x1b[0mOne", "\x1b[36m[(4, 6)]\x1b[0mis"
    assert with_indices("One is", "word") == f"{first} {second}"
    assert with_indices("A \x1b[2Jhere.").endswith("A ␛[2Jhere.")
    shown = with_indices("One.\r\nTwo\rthree.")
    assert re.sub(r"\x1b\[36m.*?\x1b\[0m", "", shown) == "One.\r\nTwo␍three."


def test_a_character_of_several_tokens_is_shown_once() -> None:
    tokenizer = tiny_tokenizer("byte_level")
    model = tiny_model("llama", vocab_size=len(tokenizer))
    task = SimpleContextAttributionTask("🦜🦜", "Who?", model, tokenizer, source_type="token")
    task.set_generation("Ada 🦜")
    scores = np.linspace(-1, 1, task.num_sources, dtype=np.float32)
    shown = highlight(task, (0, 2), scores)
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == task.text
