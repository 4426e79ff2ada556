"""POST /attribute in all its forms: spans, quotes, levels, methods, estimators, verification."""

import shutil
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from fastapi.testclient import TestClient

from at2 import AttentionFeatureExtractor, LinearScoreEstimator
from at2.estimator.identity import ModelIdentity
from at2.evaluation.verdicts import Calibration
from at2.methods import METHODS
from at2.tasks import SOURCE_TYPES
from service.app import create_app
from service.engine import Engine
from service.field_types import Method, SourceType
from service.settings import Settings
from tests.helpers.tiny import tiny_estimator, tiny_pair, tiny_settings

CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon.\n\n"
    "Omar Whitfield plays the cello. Halden Freight was founded by Olga Petrov."
)
QUERY = "Where does Charlotte Bennett live?"
RESPONSE = "Charlotte Bennett lives in Lisbon."
STATELESS = {"context": CONTEXT, "query": QUERY, "response": RESPONSE}


def _ask(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = client.post("/attribute", json=body)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def _client(**settings: Any) -> TestClient:
    """Of an application in this process."""
    return TestClient(create_app(Engine(Settings(**tiny_settings() | settings))))


@pytest.fixture()
def generation(client: httpx.Client) -> dict[str, Any]:
    reply: dict[str, Any] = client.post(
        "/generate", json={"context": CONTEXT, "query": QUERY}
    ).json()
    return reply


def test_the_schema_names_what_the_library_has() -> None:
    assert set(get_args(Method)) == set(METHODS)
    assert set(get_args(SourceType)) == set(SOURCE_TYPES)


def test_one_span_many_spans_a_quote_and_sentences_agree(
    client: httpx.Client, generation: dict[str, Any]
) -> None:
    name, text = generation["id"], generation["response"]
    spans = [{"start": s["start"], "end": s["end"]} for s in generation["statements"]]
    assert len(spans) > 1
    by_sentence = _ask(client, id=name, split_by="sentence")["attributions"]
    assert _ask(client, id=name, spans=spans)["attributions"] == by_sentence
    for span, found in zip(spans, by_sentence, strict=True):
        assert _ask(client, id=name, **span)["attributions"] == [found]
    whole = _ask(client, id=name)["attributions"]
    assert _ask(client, id=name, start=0, end=len(text))["attributions"] == whole
    assert _ask(client, id=name, quote=text)["attributions"] == whole
    word = next(word for word in text.split() if text.count(word) == 1)
    place = text.index(word)
    by_quote = _ask(client, id=name, quote=word)["attributions"]
    assert by_quote == _ask(client, id=name, start=place, end=place + len(word))["attributions"]
    assert by_quote[0]["text"] == word


@pytest.mark.parametrize("source_type", get_args(SourceType))
def test_scores_of_every_level_add_up_to_those_of_the_document(
    client: httpx.Client, source_type: str
) -> None:
    def total(level: str) -> float:
        reply = _ask(client, **STATELESS, source_type=level, top_k=10_000)
        return sum(source["score"] for source in reply["attributions"][0]["sources"])

    if source_type in ("paragraph", "token", "document"):
        assert total(source_type) == pytest.approx(total("document"), abs=2e-2)
    assert total(source_type) > 0


def test_a_generation_can_be_attributed_at_another_level(
    client: httpx.Client, generation: dict[str, Any]
) -> None:
    reply = _ask(client, id=generation["id"], source_type="paragraph")
    sources = reply["attributions"][0]["sources"]
    assert sorted(source["text"] for source in sources) == sorted(CONTEXT.split("\n\n"))


@pytest.mark.parametrize("method", get_args(Method))
def test_every_method_ranks_every_source(
    client: httpx.Client, generation: dict[str, Any], method: str
) -> None:
    reply = _ask(client, id=generation["id"], method=method, split_by="sentence")
    assert reply["method"] == method
    takes_estimator = METHODS[method].needs_estimator
    assert reply["estimator"] == (str(tiny_estimator()) if takes_estimator else None)
    for attribution in reply["attributions"]:
        sources = attribution["sources"]
        assert sorted(source["index"] for source in sources) == [0, 1, 2, 3]
        scores = [source["score"] for source in sources]
        assert scores == sorted(scores, reverse=True)
        assert "verification" not in attribution


def test_fusion_takes_no_pass_and_the_scores_of_a_retriever(client: httpx.Client) -> None:
    documents = [{"text": text} for text in CONTEXT.split("\n\n")]
    generation = client.post("/generate", json={"documents": documents, "query": QUERY}).json()
    name = generation["id"]
    plain = _ask(client, id=name, method="fusion")
    assert plain["method"] == "fusion" and plain["estimator"] == str(tiny_estimator())
    (found,) = plain["attributions"]
    scores = [source["score"] for source in found["sources"]]
    assert len(scores) == 4 and min(scores) >= 0 and sum(scores) <= 1 + 1e-6
    by_document = _ask(client, id=name, method="fusion", retrieval_scores=[0.0, 9.0])
    by_source = _ask(client, id=name, method="fusion", retrieval_scores=[0.0, 0.0, 9.0, 9.0])
    assert by_document["attributions"] == by_source["attributions"] != plain["attributions"]
    assert _ask(client, id=name, method="fusion") == plain  # scores are of one request only
    stateless = {"documents": documents, "query": QUERY, "response": generation["response"]}
    again = _ask(client, **stateless, method="fusion", retrieval_scores=[0.0, 9.0])
    for one, other in zip(
        again["attributions"][0]["sources"], by_document["attributions"][0]["sources"], strict=True
    ):
        assert one["index"] == other["index"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
    assert client.post("/attribute", json={"id": name, "method": "at2"}).status_code == 200


def test_sources_with_a_share_of_the_scores_are_cited(
    client: httpx.Client, generation: dict[str, Any]
) -> None:
    every = _ask(client, id=generation["id"], source_type="word", top_k=10_000)
    scores = [source["score"] for source in every["attributions"][0]["sources"]]
    total = sum(max(score, 0.0) for score in scores)
    between = (scores[1] + scores[2]) / 2 / total
    assert scores[1] > scores[2] > 0
    reply = _ask(client, id=generation["id"], source_type="word", top_k=4, min_share=between)
    sources = reply["attributions"][0]["sources"]
    assert [source["cited"] for source in sources] == [True, True, False, False]
    refused = client.post("/attribute", json={"id": generation["id"], "min_share": 1.5})
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "min_share"


def test_verification_measures_what_leave_one_out_does(
    client: httpx.Client, generation: dict[str, Any]
) -> None:
    reply = _ask(client, id=generation["id"], verify=True, top_k=3)
    (attribution,) = reply["attributions"]
    verification = attribution["verification"]
    assert [s["index"] for s in verification["sources"]] == [
        s["index"] for s in attribution["sources"]
    ]
    loo = _ask(client, id=generation["id"], method="leave_one_out")["attributions"][0]
    per_token = {source["index"]: source["score"] for source in loo["sources"]}
    for source in verification["sources"]:
        assert source["drop"] / verification["num_tokens"] == pytest.approx(
            per_token[source["index"]], abs=1e-4
        )
    assert verification["log_prob"] <= 0


def test_support_is_what_the_whole_context_is_worth(
    client: httpx.Client, generation: dict[str, Any]
) -> None:
    asked = {"id": generation["id"], "split_by": "sentence", "top_k": 1}
    found = _ask(client, **asked, support=True)["attributions"]
    assert all(each["verdict"] is None for each in found)  # this model has no calibration
    verified = _ask(client, **asked, verify=True)["attributions"]
    for one, other in zip(found, verified, strict=True):
        measured = other["verification"]
        per_token = measured["drop_all"] / measured["num_tokens"]
        assert one["support"] == pytest.approx(per_token, abs=1e-4)
        assert "support" not in other and "verification" not in one
    both = _ask(client, **asked, verify=True, support=True)["attributions"]
    assert [each["verification"] for each in both] == [each["verification"] for each in verified]
    assert [each["support"] for each in both] == pytest.approx([e["support"] for e in found])
    assert client.get("/info").json()["support"] is None


def test_verification_says_what_the_cited_sources_hold_alone(
    client: httpx.Client, generation: dict[str, Any]
) -> None:
    def cited(min_share: float) -> tuple[dict[str, Any], dict[str, Any]]:
        reply = _ask(client, id=generation["id"], verify=True, top_k=9, min_share=min_share)
        verification = reply["attributions"][0]["verification"]
        return verification, verification["cited"]

    whole, every = cited(0.0)
    assert sorted(every["sources"]) == [0, 1, 2, 3]
    assert every["log_prob_alone"] == pytest.approx(whole["log_prob"], abs=1e-4)
    assert every["drop"] == pytest.approx(whole["drop_all"], abs=1e-4)
    whole, none = cited(1.0)
    assert none["sources"] == [] and none["drop"] == pytest.approx(0.0, abs=1e-4)
    assert none["log_prob_alone"] == pytest.approx(whole["log_prob"] - whole["drop_all"], abs=1e-4)


def test_verdicts_come_from_the_calibration_beside_the_estimator(tmp_path: Path) -> None:
    shutil.copytree(tiny_estimator(), tmp_path / "own")
    identity = ModelIdentity.of(*tiny_pair())
    Calibration(identity, -50.0, -50.0, {"made": "up"}).save(tmp_path / "own")
    with _client(estimator=str(tmp_path / "own")) as client:
        assert client.get("/info").json()["support"] == {
            "supported": -50.0,
            "from_memory": -50.0,
            "measured": {"made": "up"},
        }
        (found,) = _ask(client, **STATELESS, support=True)["attributions"]
        assert found["verdict"] == "supported"


def test_verification_of_every_sentence(client: httpx.Client) -> None:
    reply = _ask(
        client,
        **STATELESS | {"response": "Charlotte Bennett lives in Lisbon. Omar Whitfield sings."},
        split_by="sentence",
        verify=True,
        top_k=1,
    )
    assert [len(a["verification"]["sources"]) for a in reply["attributions"]] == [1, 1]


def test_estimators_are_chosen_by_name(tmp_path: Path) -> None:
    shutil.copytree(tiny_estimator(), tmp_path / "second")
    first = str(tiny_estimator())
    table = f"second={tmp_path / 'second'},third={tmp_path / 'second'}"
    with _client(estimators=table, max_spans=3) as client:
        info = client.get("/info").json()
        assert [e["name"] for e in info["estimators"]] == [first, "second", "third"]
        assert info["limits"]["max_spans"] == 3
        default = _ask(client, **STATELESS)
        assert default["estimator"] == first
        second = _ask(client, **STATELESS, estimator="second")
        assert second["estimator"] == "second"
        assert second["attributions"] == default["attributions"]
        refused = client.post("/attribute", json=STATELESS | {"estimator": "fourth"})
        assert refused.status_code == 400
        assert f"{first}, second, third" in refused.json()["error"]["message"]


def test_estimators_of_a_folder_are_there_by_name(tmp_path: Path) -> None:
    trained = tmp_path / "estimators"
    for name in ("fine", "other-model", "torn"):
        shutil.copytree(tiny_estimator(), trained / name)
    (trained / "in-training").mkdir()
    (trained / "torn/score_estimator.safetensors").write_bytes(b"torn")
    LinearScoreEstimator(AttentionFeatureExtractor(2, 2)).save(
        trained / "other-model/score_estimator.safetensors"
    )
    first = str(tiny_estimator())
    with _client(estimators_folder=str(trained)) as client:
        assert [e["name"] for e in client.get("/info").json()["estimators"]] == [first, "fine"]
        assert _ask(client, **STATELESS, estimator="fine")["estimator"] == "fine"
