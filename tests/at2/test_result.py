"""Results stand alone: as values, in a file, in a table, on a page and in pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import at2
from at2.display import attributions_fragment, shortened
from at2.errors import InputError
from at2.tasks import Document, SimpleThoughtAttributionTask
from tests.helpers.pages import HOSTILE, Page
from tests.helpers.tiny import tiny_pair

RESPONSE = "Ada wrote it. The fox did not."


def result_of(spans: Any = "sentence", **settings: Any) -> at2.AttributionResult:
    documents = [
        {"text": "Ada wrote the program. It ran in 1987.", "id": "a", "title": "One"},
        "The fox 😀 saw it.",
    ]
    given = {"response": RESPONSE, "model": tiny_pair(), "spans": spans}
    return at2.attribute(documents, "Who wrote it?", **{**given, **settings})


def test_a_span_is_the_mean_of_its_tokens() -> None:
    result = result_of()
    assert result.token_scores is not None
    assert "".join(RESPONSE[start:end] for start, end in result.tokens) == RESPONSE
    for attribution, scores in zip(result, result.scores, strict=True):
        inside = [s < attribution.end and e > attribution.start for s, e in result.tokens]
        np.testing.assert_allclose(scores, result.token_scores[inside].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    "method", ["contrastive_attention", "gradient_norm", "visibility_gradient"]
)
def test_what_is_saved_is_loaded(method: str, tmp_path: Path) -> None:
    result = result_of(method=method)
    result.save(tmp_path / "result.json")
    loaded = at2.AttributionResult.load(tmp_path / "result.json")
    assert loaded == result
    assert (loaded.token_scores is None) == (method != "contrastive_attention")
    if loaded.token_scores is not None:
        np.testing.assert_array_equal(loaded.token_scores, result.token_scores)
    values = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert values == result.to_dict() and values["version"] == 1
    assert values["sources"][2]["text"] == "The fox 😀 saw it."
    assert [one["rank"] for one in values["attributions"][0]["sources"]] == [1, 2, 3]


def test_a_score_that_is_no_number_is_saved_too(tmp_path: Path) -> None:
    result = result_of()
    assert result.token_scores is not None
    result.token_scores[0, 0] = np.nan
    result.save(tmp_path / "result.json")
    loaded = at2.AttributionResult.load(tmp_path / "result.json")
    np.testing.assert_array_equal(loaded.token_scores, result.token_scores)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no readable result"),
        ("[]", "no at2.attribution_result"),
        ('{"format": "at2.attribution_result", "version": 2}', "version 2: only 1"),
        ('{"format": "at2.attribution_result", "version": 1}', "damaged"),
    ],
)
def test_other_files_are_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(content)
    with pytest.raises(InputError, match=message):
        at2.AttributionResult.load(tmp_path / "file.json")
    with pytest.raises(InputError, match=r"nothing\.json.*[Nn]o such file"):
        at2.AttributionResult.load(tmp_path / "nothing.json")


def test_the_table_has_a_row_for_each_span_and_source() -> None:
    result = result_of()
    frame = result.to_pandas()
    assert len(frame) == 2 * 3
    assert list(frame["rank"]) == [1, 2, 3] * 2
    best = result[1].sources[0]
    row = frame[(frame["span"] == 1) & (frame["rank"] == 1)].iloc[0]
    assert (row["text"], row["source_text"]) == ("The fox did not.", best.source.text)
    assert (row["score"], row["source"]) == (best.score, best.source.index)
    assert row["cited"] == best.cited


def test_a_result_of_any_attributor() -> None:
    model, tokenizer = tiny_pair()
    task = SimpleThoughtAttributionTask("Who?", model, tokenizer)
    task.set_generation("<think>\nAda was there. So was Ben.\n</think>\n\nIt was Ada.")
    result = at2.AttributionResult.of(at2.AverageAttentionAttributor(task), "Ada")
    assert result.method == "average_attention"
    assert [source.text for source in result.sources] == ["Ada was there.", "So was Ben."]
    assert result.response == "It was Ada." and result[0].text == "Ada"
    texts = [result.documents[s.document].text[s.start : s.end] for s in result.sources]
    assert texts == [source.text for source in result.sources]
    assert result == at2.AttributionResult.from_dict(result.to_dict())


# To look at


def test_the_fragment_shows_spans_and_their_sources() -> None:
    result = result_of()
    page = Page(result._repr_html_())
    # All of it is text to a notebook's MathJax, also "$5 and $6".
    assert {"tex2jax_ignore", "mathjax_ignore"} <= set(page.elements[0][1]["class"].split())
    assert page.texts["p"][0] == "Who wrote it?"
    assert page.texts["u"] == [attribution.text for attribution in result]
    assert [text.strip() for text in page.texts["sup"]] == ["1", "2"]
    assert len(page.texts["table"]) == 2 and len(page.texts["tr"]) == 6
    for attribution, table in zip(result, page.texts["table"], strict=True):
        places = [table.index(ranked.source.text) for ranked in attribution.sources]
        assert places == sorted(places)
    assert len(page.texts.get("b", [])) == sum(
        ranked.cited for attribution in result for ranked in attribution.sources
    )
    assert "One" in page.texts["small"] and "document 2" in page.texts["small"]


def test_hostile_text_adds_no_element_and_no_attribute_to_the_fragment() -> None:
    plain = Page(result_of()._repr_html_())
    documents = [Document(f"One is here. {text} Two.", id=text, title=text) for text in HOSTILE]
    query = response = " ".join(HOSTILE)
    result = at2.attribute(documents, query, response, model=tiny_pair(), spans="sentence")
    hostile = Page(result._repr_html_())
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in plain.elements} | {"b"}
    known = {name for _, attributes in plain.elements for name in attributes}
    assert {name for _, attributes in hostile.elements for name in attributes} <= known
    assert query in hostile.texts["p"]


def test_spans_that_overlap_are_underlined_once() -> None:
    result = result_of([(0, 13), (4, 20), (14, 30)])
    page = Page(attributions_fragment(result.response, result.attributions, result.documents))
    assert page.texts["u"] == [RESPONSE[0:13], RESPONSE[14:30]]
    assert len(page.texts["table"]) == 3


def test_long_texts_lose_their_middle() -> None:
    assert shortened("as  it\nis", 9) == "as it is"
    short = shortened("word " * 50 + "end", 30)
    assert len(short) <= 30 and short.startswith("word ") and short.endswith("end") and "…" in short
    assert shortened("\x1b[31m", 9) == "␛[31m"


def test_the_token_plot_has_a_cell_for_each_token_and_source(tmp_path: Path) -> None:
    result = result_of()
    figure = result.plot_tokens(num_sources=2)
    panel = figure.axes[0].images[0].get_array()
    assert panel is not None and panel.shape == (2, len(result.tokens))
    assert result.token_scores is not None
    strongest = np.sort(np.argsort(-np.abs(result.token_scores).mean(axis=0), kind="stable")[:2])
    np.testing.assert_allclose(panel, np.abs(result.token_scores[:, strongest].T), rtol=1e-6)
    figure.savefig(tmp_path / "tokens.png")
    (start, end) = result[1].start, result[1].end
    inside = [s < end and e > start for s, e in result.tokens]
    panel = result.plot_tokens(span=1).axes[0].images[0].get_array()
    assert panel is not None and panel.shape == (3, sum(inside))


def test_a_long_response_is_drawn_in_panels() -> None:
    result = result_of(None, response="Ada wrote it. " * 30)
    figure = result.plot_tokens()
    assert len(result.tokens) > 80
    panels = [axis for axis in figure.axes if axis.get_yticklabels() and axis.get_xticklabels()]
    assert len(panels) >= -(-len(result.tokens) // 40)


def test_the_plot_of_statements_has_their_scores(tmp_path: Path) -> None:
    result = result_of(response="It cost $5 and $6. The fox did not.")
    figure = result.plot_sources()
    axis = figure.axes[0]
    shown = [float(text.get_text().replace("−", "-")) for text in axis.texts]
    np.testing.assert_allclose(shown, result.scores.T.ravel(), atol=5e-4)
    assert [label.get_text()[:2] for label in axis.get_xticklabels()] == ["1.", "2."]
    figure.savefig(tmp_path / "sources.svg")  # dollars are no formula
    assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert at2.AttributionResult.from_dict(result.to_dict()).plot_sources().axes


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="gradient_norm scores spans"):
        result_of(method="gradient_norm").plot_tokens()
    with pytest.raises(InputError, match="no span 2 of 2"):
        result_of().plot_tokens(span=2)
    with pytest.raises(InputError, match="num_sources is 0"):
        result_of().plot_sources(0)
    with pytest.raises(InputError, match="nothing to plot"):
        result_of([]).plot_sources()


def test_the_text_names_what_is_cited_and_nothing_is_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    result = result_of()
    lines = str(result).splitlines()
    assert lines[0] == "Ada wrote it."
    assert any(result[0].sources[0].source.text in line for line in lines)
    assert capsys.readouterr().out == ""
