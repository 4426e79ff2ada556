"""One call from strings to a result: what may be given for each argument, and what is found."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import at2
from at2.errors import EstimatorError, InputError, ModelError, SpanError
from at2.estimator.known import PUBLISHED, published_estimator
from at2.model import recent
from at2.tasks import Document
from tests.helpers.tiny import tiny_estimator, tiny_folder, tiny_pair

CONTEXT = "Ada wrote the program. It ran in 1987. The fox saw it."
QUERY = "Who wrote it?"
RESPONSE = "Ada wrote it. The fox did not."


@pytest.fixture(autouse=True)
def _without_estimators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No estimators in the working directory."""
    monkeypatch.chdir(tmp_path)


def attribute(**settings: Any) -> at2.AttributionResult:
    given = {"context": CONTEXT, "query": QUERY, "response": RESPONSE, "model": tiny_pair()}
    return at2.attribute(**{**given, **settings})


def test_a_text_and_a_query_are_enough_for_a_known_model() -> None:
    result = attribute(response=None, generate_kwargs={"max_new_tokens": 6, "do_sample": False})
    assert result.response and len(result) == 1
    assert result[0].text == result.response
    assert [source.text for source in result.sources] == CONTEXT.replace(". ", ".|").split("|")
    assert (result.method, result.estimator) == ("contrastive_attention", None)
    assert result.query == QUERY and result.model == "tiny-random"


@pytest.mark.parametrize(
    ("spans", "texts"),
    [
        (None, [RESPONSE]),
        ("sentence", ["Ada wrote it.", "The fox did not."]),
        ("fox", ["fox"]),
        ((0, 3), ["Ada"]),
        ([0, 3], ["Ada"]),
        (["fox", (0, 3)], ["fox", "Ada"]),
        ([], []),
    ],
)
def test_spans(spans: Any, texts: list[str]) -> None:
    result = attribute(spans=spans)
    assert [attribution.text for attribution in result] == texts
    assert all(len(attribution.sources) == 3 for attribution in result)


@pytest.mark.parametrize(
    ("spans", "error", "message"),
    [
        ("Lisbon", SpanError, "does not say 'Lisbon'"),
        ("o", SpanError, "'o' 3 times"),
        ((3, 99), SpanError, "99"),
        ([("a", "b")], InputError, "neither a text nor"),
        (5, InputError, "int"),
        ([True, False], InputError, "True"),
    ],
)
def test_spans_that_are_refused(spans: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attribute(spans=spans)


def test_documents_may_be_texts_mappings_and_objects() -> None:
    documents = ["It ran.", {"text": "Ada.", "id": "b"}, SimpleNamespace(text="Ben.", title="T")]
    result = attribute(context=documents, source_type="document")
    assert result.documents == (
        Document("It ran."),
        Document("Ada.", id="b"),
        Document("Ben.", title="T"),
    )
    assert [source.document for source in result.sources] == [0, 1, 2]


@pytest.mark.parametrize(
    "document", [{"text": CONTEXT, "id": "b"}, Document(CONTEXT), SimpleNamespace(text=CONTEXT)]
)
def test_a_context_may_be_one_document(document: Any) -> None:
    result = attribute(context=document)
    assert [one.text for one in result.documents] == [CONTEXT]
    assert result.attributions == attribute().attributions


def test_an_estimator_is_taken_from_a_place_and_names_the_result() -> None:
    result = attribute(estimator=tiny_estimator())
    assert (result.method, result.estimator) == ("at2", "tiny-estimator")
    named = attribute(estimator=str(tiny_estimator()))
    assert named.estimator == "tiny-estimator" and str(tiny_estimator()) not in str(named.to_dict())
    loaded = at2.load_estimator(tiny_estimator())
    assert attribute(estimator=loaded).attributions == result.attributions
    with pytest.raises(InputError, match="leave_one_out takes no estimator"):
        attribute(estimator=loaded, method="leave_one_out")


def test_retrieval_scores_mean_fusion() -> None:
    settings: dict[str, Any] = {
        "estimator": tiny_estimator(),
        "context": ["It ran.", "Ada.", "Ben."],
    }
    plain = attribute(**settings, method="fusion")
    result = attribute(**settings, retrieval_scores=[0.0, 0.0, 5.0])
    assert plain.method == result.method == "fusion" and plain != result
    assert result.scores.min() >= 0 and result.scores.sum() == pytest.approx(1)
    with pytest.raises(InputError, match="2 retrieval scores for 3 documents with 3 sources"):
        attribute(**settings, retrieval_scores=[1.0, 2.0])
    with pytest.raises(InputError, match="at2 takes no retrieval scores"):
        attribute(**settings, method="at2", retrieval_scores=[0.0, 0.0, 5.0])


def test_the_estimator_of_a_model_is_found_in_the_working_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method at2 needs an estimator"):
        attribute(method="at2")
    (tmp_path / "estimators" / "mine").mkdir(parents=True)
    (tmp_path / "estimators" / "notes.txt").write_text("no folder")
    saved = at2.load_estimator(tiny_estimator())
    saved.save(tmp_path / "estimators" / "mine" / "score_estimator.safetensors")
    result = attribute()
    assert (result.method, result.estimator) == ("at2", "mine")
    assert result.attributions == attribute(estimator=saved).attributions

    saved.save_folder(tmp_path / "estimators" / "other")
    with pytest.raises(InputError, match="mine, other"):
        attribute()
    (tmp_path / "estimators" / "other" / "score_estimator.safetensors").write_bytes(b"?")
    with pytest.warns(UserWarning, match="passed over"):
        assert attribute().estimator == "mine"
    anonymous = at2.LinearScoreEstimator(saved.feature_extractor)
    anonymous.save_folder(tmp_path / "estimators" / "other")
    assert attribute().estimator == "mine"


def test_an_attributor_finds_the_estimator_too(tmp_path: Path) -> None:
    task = at2.tasks.SimpleContextAttributionTask(CONTEXT, QUERY, *tiny_pair())
    with pytest.raises(EstimatorError, match="no estimator at hand belongs to 'tiny-random'"):
        at2.AT2Attributor(task)
    at2.load_estimator(tiny_estimator()).save_folder(tmp_path / "estimators" / "mine")
    assert at2.AT2Attributor(task).score_estimator.identity is not None


def test_a_published_estimator_is_named_only_for_its_model() -> None:
    assert published_estimator("Qwen/Qwen2.5-7B-Instruct") == "madrylab/at2-qwen2.5-7b-instruct"
    assert len(PUBLISHED) == 5
    with pytest.raises(InputError, match="no estimator is published for 'tiny-random'"):
        attribute(estimator="published")


def test_a_model_named_twice_is_loaded_once_and_two_are_kept(tmp_path: Path) -> None:
    recent.forget_models()
    folders = [tiny_folder(), tmp_path / "b", tmp_path / "c"]
    for folder in folders[1:]:
        folder.symlink_to(tiny_folder())
    first, second, third = (str(folder) for folder in folders)
    kept = recent.recent_model(first)
    assert recent.recent_model(first) is kept
    other = recent.recent_model(second)
    assert attribute(model=folders[0]).model == "tiny-random"  # used again: the last one now
    recent.recent_model(third)
    assert recent.recent_model(first) is kept
    again = recent.recent_model(second)
    assert again is not other
    with pytest.raises(ModelError, match="cannot load model 'mispelt'"):
        recent.recent_model("mispelt")
    assert recent.recent_model(first) is kept and recent.recent_model(second) is again
    recent.forget_models()
    assert recent.recent_model(first) is not kept
    recent.forget_models()


def test_a_model_that_is_no_pair_is_refused() -> None:
    with pytest.raises(InputError, match="tuple of 3"):
        attribute(model=(1, 2, 3))
