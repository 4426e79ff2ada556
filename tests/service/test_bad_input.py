"""Bad input gets one error shape, a fitting status, and a message that names what is wrong."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.helpers.models import tiny_model
from tests.helpers.processes import running_server
from tests.helpers.tiny import tiny_pair

CONTEXT = "Charlotte Bennett lives in Lisbon. Omar Whitfield plays the cello."
GENERATE = {"context": CONTEXT, "query": "Where does Charlotte Bennett live?"}
ATTRIBUTE = GENERATE | {"response": "Charlotte Bennett lives in Lisbon."}
LENGTH = len(ATTRIBUTE["response"])


def _error(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] and "\n" not in body["error"]["message"]
    assert "Traceback" not in response.text and "site-packages" not in response.text
    error: dict[str, Any] = body["error"]
    return error


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"query": ""}, "query"),
        ({"query": "  \n"}, "query"),
        ({"query": None}, "query"),
        ({"context": ""}, "context"),
        ({"context": None}, "context or documents"),
        ({"documents": []}, "documents"),
        ({"documents": [{"text": "x"}]}, "either context or documents"),
        ({"context": None, "documents": [{"text": ""}]}, "documents.0.text"),
        ({"context": None, "documents": [{"text": "x", "url": "y"}]}, "documents.0.url"),
        ({"context": None, "documents": [{"text": "x", "id": "i" * 257}]}, "256 characters"),
        ({"temprature": 1}, "temprature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 1_000_000}, "1024"),
        ({"seed": -1}, "seed"),
        ({"source_type": "paragraphs"}, "source_type"),
        ({"source_messages": "some"}, "source_messages: neither 'all', nor 'tool'"),
        ({"source_messages": [True]}, "source_messages: neither 'all', nor 'tool'"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ],
)
def test_generate_refuses(client: httpx.Client, change: dict[str, Any], named: str) -> None:
    response = client.post("/generate", json=GENERATE | change)
    assert response.status_code == 400
    assert named in _error(response)["message"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"start": 0, "end": LENGTH + 1}, str(LENGTH)),
        ({"start": 5, "end": 5}, "5"),
        ({"start": 9, "end": 3}, "9"),
        ({"start": -1, "end": 3}, "start"),
        ({"start": 3}, "both start and end"),
        ({"spans": []}, "spans"),
        ({"spans": [{"start": 0, "end": 3}, {"start": 4, "end": 999}]}, "999"),
        ({"start": 0, "end": 3, "split_by": "sentence"}, "one of"),
        ({"split_by": "page"}, "split_by"),
        ({"method": "magic"}, "method"),
        ({"estimator": "unknown"}, "there are: "),
        ({"estimator": "any", "method": "average_attention"}, "takes no estimator"),
        ({"retrieval_scores": [1.0]}, "retrieval_scores need method fusion"),
        ({"method": "fusion", "retrieval_scores": []}, "retrieval_scores"),
        ({"method": "fusion", "retrieval_scores": ["a"]}, "retrieval_scores"),
        ({"method": "fusion", "retrieval_scores": [1.0] * 99}, "99 retrieval scores for 1"),
        ({"top_k": 0}, "top_k"),
        ({"response": ""}, "response"),
        ({"response": None}, "id or response"),
        ({"id": "gen-1"}, "with id"),
        ({"span": [0, 3]}, "span"),
    ],
)
def test_attribute_refuses(client: httpx.Client, change: dict[str, Any], named: str) -> None:
    response = client.post("/attribute", json=ATTRIBUTE | change)
    assert response.status_code == 400
    assert named in _error(response)["message"]


def test_an_unknown_id_is_not_found(client: httpx.Client) -> None:
    response = client.post("/attribute", json={"id": "gen-nothing"})
    assert response.status_code == 404
    assert "gen-nothing" in _error(response)["message"]


@pytest.mark.parametrize("path", ["/generate", "/attribute"])
def test_a_context_longer_than_the_model_names_both_numbers(
    client: httpx.Client, path: str
) -> None:
    body = (GENERATE if path == "/generate" else ATTRIBUTE) | {"context": "The cat sat. " * 3000}
    response = client.post(path, json=body)
    assert response.status_code == 400
    error = _error(response)
    assert error["code"] == "context_length_exceeded"
    assert "2048" in error["message"]
    numbers = [int(w) for w in error["message"].replace(",", " ").split() if w.isdigit()]
    assert max(numbers) > 9000


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"context": "\\ud800"}']
)
@pytest.mark.parametrize("path", ["/generate", "/attribute"])
def test_a_body_that_is_no_request_is_refused(
    client: httpx.Client, path: str, content: bytes
) -> None:
    response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    _error(response)


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/generate", '{"context": "a \\ud800 b", "query": "What?"}', "context"),
        ("/generate", '{"context": "a", "query": "\\udfff"}', "query"),
        ("/generate", '{"documents": [{"text": "a", "id": "\\udfff"}], "query": "q"}', "0.id"),
        (
            "/generate",
            '{"documents": [{"text": "a", "title": "\\udfff"}], "query": "q"}',
            "0.title",
        ),
        ("/attribute", '{"context": "a", "query": "q", "response": "b\\udfff"}', "response"),
        ("/attribute", '{"id": "\\udfff"}', "id"),
    ],
)
def test_text_that_is_no_unicode_is_refused(
    client: httpx.Client, path: str, body: str, named: str
) -> None:
    headers = {"Content-Type": "application/json"}
    response = client.post(path, content=body.encode(), headers=headers)
    assert response.status_code == 400
    assert _error(response)["param"].endswith(named)


@pytest.mark.parametrize(
    ("content", "kind", "code", "words"),
    [
        (b"", "application/json", "missing", "the body is empty"),
        (b'{"query": "q"}', "text/plain", "model_attributes_type", "application/json"),
        (b'{"query": "\xff"}', "application/json", "invalid_json", "UTF-8"),
        (b"[" * 100_000, "application/json", "invalid_json", "nested too deeply"),
        (b"\x1f\x8b\x08\x00", "application/json", "invalid_json", "compressed"),
        (b'{"temperature": NaN}', "application/json", "finite_number", "temperature"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(
    client: httpx.Client, content: bytes, kind: str, code: str, words: str
) -> None:
    response = client.post("/generate", content=content, headers={"Content-Type": kind})
    assert response.status_code == 400
    error = _error(response)
    assert error["code"] == code and words in error["message"]


def test_an_unknown_field_is_named_as_far_as_is_useful(client: httpx.Client) -> None:
    response = client.post("/generate", json=GENERATE | {"x" * 10_000: 1})
    assert response.status_code == 400
    assert len(response.text) < 400


@pytest.mark.parametrize("path", ["/generate", "/attribute"])
def test_far_too_long_texts_are_refused_by_their_beginning(client: httpx.Client, path: str) -> None:
    body = GENERATE if path == "/generate" else ATTRIBUTE
    for long in ({"context": "The cat sat. " * 300_000}, {"query": "Why? " * 800_000}):
        response = client.post(path, json=body | long)
        assert response.status_code == 400
        error = _error(response)
        assert error["code"] == "context_length_exceeded"
        # 65,536 characters are some 20,000 tokens: all of the text has far more
        numbers = [int(word) for word in error["message"].split() if word.isdigit()]
        assert 2048 in numbers and max(numbers) < 70_000


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/generate", 405),
        ("DELETE", "/info", 405),
        ("POST", "/generate/", 404),
        ("GET", "/generations/gen-nothing", 404),
        ("DELETE", "/generations/gen-nothing", 404),
    ],
)
def test_wrong_paths_and_verbs_have_the_same_error_shape(
    client: httpx.Client, method: str, path: str, status: int
) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    _error(response)


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/generations/x", "DELETE, GET"), ("/health", "GET, HEAD"), ("/generate", "POST")],
)
def test_a_method_that_there_is_not_gets_all_that_there_are(
    client: httpx.Client, path: str, methods: str
) -> None:
    response = client.put(path)
    assert response.status_code == 405
    assert response.headers["Allow"] == methods


def test_a_method_that_the_model_does_not_support_is_refused(tmp_path: Path) -> None:
    _, tokenizer = tiny_pair()
    tiny_model("opt", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with (
        running_server(
            forked=True, AT2_MODEL=str(tmp_path), AT2_GENERATOR="http://127.0.0.1:9"
        ) as (_, address),
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        refused = client.post("/attribute", json=ATTRIBUTE | {"method": "visibility_gradient"})
        assert refused.status_code == 400
        error = _error(refused)
        assert error["code"] == "unsupported_by_model"
        assert "OPTForCausalLM cannot hide tokens" in error["message"]
        other = client.post("/attribute", json=ATTRIBUTE | {"method": "gradient_norm"})
        assert other.status_code == 200
