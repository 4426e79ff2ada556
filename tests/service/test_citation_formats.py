"""Citations in the shapes of others say the same as ours."""

import json
from typing import Any

import httpx
import pytest

DOCUMENTS = [
    {"id": "a", "text": "Charlotte Bennett works for Halden Freight. She lives in Lisbon."},
    {"title": "Music", "text": "Omar Whitfield plays the cello. 😀 Olga Petrov sings."},
]
QUERY = "Where does Charlotte Bennett live?"
RESPONSE = "- Charlotte Bennett lives in Lisbon.\n\n- Omar Whitfield plays the cello!\n"
BODY = {"documents": DOCUMENTS, "query": QUERY, "response": RESPONSE, "split_by": "sentence"}


def _attribute(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    response = client.post("/attribute", json=BODY | changes)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def _cited(attribution: dict[str, Any]) -> list[dict[str, Any]]:
    return [source for source in attribution["sources"] if source["cited"]]


def test_anthropics_blocks_join_to_the_response_and_cite_what_is_cited(
    client: httpx.Client,
) -> None:
    plain = _attribute(client, min_share=0.0)
    reply = _attribute(client, min_share=0.0, citation_format="anthropic")
    content = reply.pop("content")
    assert reply == plain
    assert "".join(block["text"] for block in content) == RESPONSE
    assert all(block["type"] == "text" for block in content)
    citing = [block for block in content if block["citations"]]
    assert len(citing) == len(plain["attributions"]) == 2
    for block, attribution in zip(citing, plain["attributions"], strict=True):
        assert block["text"] == attribution["text"]
        assert block["citations"] == [
            {
                "type": "char_location",
                "cited_text": source["text"],
                "document_index": source["document"],
                "document_title": DOCUMENTS[source["document"]].get("title"),
                "start_char_index": source["start"],
                "end_char_index": source["end"],
                "file_id": None,
            }
            for source in _cited(attribution)
        ]


def test_coheres_citations_name_documents_and_cite_what_is_cited(client: httpx.Client) -> None:
    plain = _attribute(client, min_share=0.0)
    reply = _attribute(client, min_share=0.0, citation_format="cohere")
    citations = reply.pop("citations")
    assert reply == plain
    ids = ["a", "doc:1"]
    for citation, attribution in zip(citations, plain["attributions"], strict=True):
        cited = _cited(attribution)
        assert citation["type"] == "TEXT_CONTENT"
        assert RESPONSE[citation["start"] : citation["end"]] == citation["text"]
        assert [(s["id"], s["document"]["text"]) for s in citation["sources"]] == [
            (ids[source["document"]], source["text"]) for source in cited
        ]
        assert set(citation["document_ids"]) == {ids[source["document"]] for source in cited}


@pytest.mark.parametrize("shape", ["anthropic", "cohere"])
def test_the_chat_route_has_the_same(client: httpx.Client, shape: str) -> None:
    options = {"citation_format": shape, "min_share": 0.0}
    body = {
        "messages": [{"role": "user", "content": QUERY}],
        "documents": DOCUMENTS,
        "attribution": options,
    }
    reply = client.post("/v1/chat/completions", json=body).json()
    asked = {"id": reply["id"], "split_by": "sentence", "min_share": 0.0, "citation_format": shape}
    found = client.post("/attribute", json=asked).json()
    annotations = reply["choices"][0]["message"]["annotations"]
    assert annotations == found["content" if shape == "anthropic" else "citations"] != []


def test_a_stream_of_blocks_joins_to_the_response(client: httpx.Client) -> None:
    body = {
        "messages": [{"role": "user", "content": QUERY}],
        "documents": DOCUMENTS,
        "attribution": {"citation_format": "anthropic"},
        "stream": True,
    }
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line[:1] == "d"]
    assert lines.pop() == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines]
    text = "".join(delta.get("content", "") for delta in deltas)
    blocks = [block for delta in deltas for block in delta.get("annotations", [])]
    assert "".join(block["text"] for block in blocks) == text != ""


def test_a_shape_needs_statements(client: httpx.Client) -> None:
    body = {key: value for key, value in BODY.items() if key != "split_by"}
    response = client.post("/attribute", json=body | {"citation_format": "cohere"})
    assert response.status_code == 400
    assert "split_by" in response.json()["error"]["message"]
