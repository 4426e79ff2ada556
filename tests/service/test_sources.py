"""Earlier messages, tools' results and thoughts as sources, over HTTP."""

import json
from typing import Any

import httpx
import pytest

from at2.methods import MAX_HOPS
from service import field_types
from service.records import Generation, Prompt
from tests.helpers.replies import alike

CONTEXT = "Charlotte Bennett works for Halden Freight. Omar Whitfield plays the cello."
QUERY = "Where does Charlotte Bennett live?"
RESULT = "Charlotte Bennett lives in Lisbon. She moved in 2019."
MESSAGES = [
    {"role": "system", "content": "Answer in a word."},
    {"role": "user", "content": "Look her up."},
    {"role": "tool", "content": RESULT},
]
THOUGHTS = "The tool says Lisbon. 😀 So it is Lisbon, </think> surely."
RESPONSE = "Charlotte Bennett lives in Lisbon."


def _ask(client: httpx.Client, path: str, **body: Any) -> dict[str, Any]:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def _sources(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """Ranked sources of all spans."""
    return [source for found in reply["attributions"] for source in found["sources"]]


def test_messages_are_sources_beside_documents(client: httpx.Client) -> None:
    asked = {"context": CONTEXT, "query": QUERY, "messages": MESSAGES}
    plain = _ask(client, "/generate", **asked)
    assert all("kind" not in source for source in plain["sources"])
    reply = _ask(client, "/generate", **asked, source_messages="tool")
    assert reply["response"] == plain["response"]
    assert reply["sources"][:2] == plain["sources"]
    assert [(s["kind"], s["document"], s["text"]) for s in reply["sources"][2:]] == [
        ("message", 3, "Charlotte Bennett lives in Lisbon."),
        ("message", 3, "She moved in 2019."),
    ]
    by_id = _ask(client, "/attribute", id=reply["id"], split_by="sentence")
    given = asked | {"response": reply["response"], "source_messages": [2]}
    stateless = _ask(client, "/attribute", **given, split_by="sentence")
    assert alike(by_id["attributions"], stateless["attributions"])
    for source in _sources(by_id):
        assert source["kind"] == "message" if source["document"] else "kind" not in source
    documents = client.get(f"/generations/{reply['id']}/prompt").json()["documents"]
    assert [d["text"] for d in documents] == [CONTEXT, *(m["content"] for m in MESSAGES)]
    for source in _sources(by_id):
        text = documents[source["document"]]["text"]
        assert text[source["start"] : source["end"]] == source["text"]


def test_without_documents_all_earlier_messages_are_sources(client: httpx.Client) -> None:
    reply = _ask(client, "/generate", query=QUERY, messages=MESSAGES)
    assert [source["document"] for source in reply["sources"]] == [0, 1, 2, 2]
    assert {source["kind"] for source in reply["sources"]} == {"message"}
    chosen = _ask(client, "/generate", query=QUERY, messages=MESSAGES, source_messages=[1, 0])
    assert [source["document"] for source in chosen["sources"]] == [0, 1]
    assert chosen["response"] == reply["response"]


def test_what_a_tool_returned_may_be_what_is_answered(client: httpx.Client) -> None:
    reply = _ask(client, "/generate", messages=MESSAGES)
    assert [source["document"] for source in reply["sources"]] == [0, 1, 2, 2]
    only = _ask(client, "/generate", messages=MESSAGES, source_messages="tool")
    assert [source["text"] for source in only["sources"]] == [
        "Charlotte Bennett lives in Lisbon.",
        "She moved in 2019.",
    ]
    assert only["response"] == reply["response"] != ""
    found = _ask(client, "/attribute", messages=MESSAGES, response=RESPONSE, source_messages="tool")
    assert {source["document"] for source in _sources(found)} == {2}


@pytest.mark.parametrize("method", ["at2", "contrastive_attention", "leave_one_out", "fusion"])
@pytest.mark.parametrize("documents", [{"context": CONTEXT}, {"messages": MESSAGES}, {}])
def test_thoughts_of_a_response_written_elsewhere_are_sources(
    client: httpx.Client, method: str, documents: dict[str, Any]
) -> None:
    reply = _ask(
        client,
        "/attribute",
        **documents,
        query=QUERY,
        thoughts=THOUGHTS,
        response=RESPONSE,
        method=method,
        split_by="sentence",
    )
    (found,) = reply["attributions"]
    assert found["text"] == found["attributed_text"] == RESPONSE
    thoughts = [source for source in found["sources"] if source.get("kind") == "thoughts"]
    assert sorted(source["start"] for source in thoughts)[0] == 0
    for source in thoughts:
        assert THOUGHTS[source["start"] : source["end"]] == source["text"]
        assert source["document"] == (4 if "messages" in documents else 1)
    others = [source for source in found["sources"] if source.get("kind") != "thoughts"]
    assert bool(others) == bool(documents)
    if method != "fusion":  # which may give nothing to what shares no word
        assert all(source["score"] != 0 for source in found["sources"])


def test_a_response_without_thoughts_is_all_of_it(client: httpx.Client) -> None:
    asked = {"context": CONTEXT, "query": QUERY}
    plain = _ask(client, "/generate", **asked)
    reply = _ask(client, "/generate", **asked, source_thoughts=True)
    assert "thoughts" not in plain and reply["thoughts"] == ""
    for field in ("response", "sources", "statements", "usage"):
        assert reply[field] == plain[field]
    ours, others = (_ask(client, "/attribute", id=one["id"]) for one in (reply, plain))
    assert alike(ours["attributions"], others["attributions"])


def test_the_schema_has_the_limit_of_the_library() -> None:
    assert field_types.MAX_HOPS == MAX_HOPS


def test_what_is_owed_to_thoughts_is_carried_on(client: httpx.Client) -> None:
    asked = {"context": CONTEXT, "query": QUERY, "thoughts": THOUGHTS, "response": RESPONSE}

    def scores(**more: Any) -> dict[int, float]:
        reply = _ask(client, "/attribute", **asked, **more)
        return {source["index"]: source["score"] for source in _sources(reply)}

    direct = scores()
    assert alike(scores(hops=0), direct)
    for method in ("at2", "average_attention", "contrastive_attention"):
        direct, carried = scores(method=method), scores(method=method, hops=MAX_HOPS)
        for index in (0, 1):  # of the context; the thoughts have nothing left
            contrasted = method == "contrastive_attention"  # which may be below zero everywhere
            assert carried[index] > direct[index] or contrasted
        assert all(abs(carried[index]) < 1e-6 for index in carried if index > 1)
    verified = _ask(client, "/attribute", **asked, hops=2, verify=True, support=True)
    assert "verification" in verified["attributions"][0]


def test_hops_of_a_record_are_those_of_the_same_response(client: httpx.Client) -> None:
    asked = {"context": CONTEXT, "query": QUERY}
    reply = _ask(client, "/generate", **asked)
    assert len(reply["statements"]) > 1
    plain = _ask(client, "/attribute", id=reply["id"], split_by="sentence")
    found = [_ask(client, "/attribute", id=reply["id"], split_by="sentence", hops=3)] * 2
    given = asked | {"response": reply["response"]}
    found.append(_ask(client, "/attribute", **given, split_by="sentence", hops=3))
    for one in found[1:]:
        assert alike(one["attributions"], found[0]["attributions"])
    first, *_, last = zip(plain["attributions"], found[0]["attributions"], strict=True)
    assert alike(*first)  # nothing is before it
    assert not alike(*last)
    again = _ask(client, "/attribute", id=reply["id"], split_by="sentence")
    assert alike(again["attributions"], plain["attributions"])


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/generate", {"query": QUERY}, "either context or documents"),
        ("/generate", {"query": QUERY, "messages": MESSAGES, "source_messages": []}, "messages"),
        ("/generate", {"context": CONTEXT, "messages": MESSAGES}, "query is missing"),
        ("/generate", {"messages": MESSAGES[:2]}, "query is missing"),
        ("/generate", {"context": CONTEXT, "query": QUERY, "source_messages": [0]}, "no message 0"),
        (
            "/generate",
            {"query": QUERY, "messages": MESSAGES, "source_messages": [4]},
            "no message 4: there are 4",
        ),
        (
            "/generate",
            {"query": QUERY, "messages": MESSAGES[:2], "source_messages": "tool"},
            "no message is of that role",
        ),
        ("/generate", {"query": QUERY, "messages": MESSAGES, "source_messages": "x"}, "'tool'"),
        ("/generate", {"context": CONTEXT, "query": QUERY, "source_thoughts": "x"}, "thoughts"),
        ("/generate", {"context": CONTEXT, "query": QUERY, "thoughts": "x"}, "thoughts"),
        ("/attribute", {"id": "x", "thoughts": ""}, "thoughts"),
        ("/attribute", {"id": "x", "hops": 17}, "hops"),
        ("/attribute", {"id": "x", "hops": -1}, "hops"),
        (
            "/attribute",
            {
                "context": CONTEXT,
                "query": QUERY,
                "response": "x",
                "hops": 1,
                "method": "leave_one_out",
            },
            "method leave_one_out takes no hops: at2, average_attention, contrastive_attention do",
        ),
        (
            "/attribute",
            {"context": CONTEXT, "query": QUERY, "response": "x", "hops": 1, "method": "fusion"},
            "method fusion takes no hops",
        ),
        ("/attribute", {"id": "x", "source_messages": "all"}, "source_messages"),
        ("/attribute", {"thoughts": "x", "query": QUERY}, "id or response"),
        (
            "/attribute",
            {"context": CONTEXT, "query": QUERY, "response": "x", "thoughts": "y " * 9999},
            "tokens",
        ),
    ],
)
def test_sources_that_are_not_there_are_refused(
    client: httpx.Client, path: str, body: dict[str, Any], said: str
) -> None:
    response = client.post(path, json=body)
    assert response.status_code == 400
    assert said in response.json()["error"]["message"]


def test_a_record_keeps_what_is_a_source() -> None:
    prompt = Prompt((), "found", (("user", "Look."),), (0, 1), source_thoughts=True, role="tool")
    generation = Generation(
        "gen-1", "m", 1, prompt, "sentence", 5, (1, 2), "Yes.", "stop", True, "<think>Hm", (7, 9)
    )
    kept = Generation.from_json(generation.to_json())
    assert kept == generation
    titles = [document.title for document in kept.source_documents]
    assert titles == ["user", "tool", "thoughts"] and kept.source_documents[2].text == "Hm"
    older = json.loads(generation.to_json())
    del older["before"], older["thoughts"]
    del older["prompt"]["source_thoughts"], older["prompt"]["role"]
    read = Generation.from_json(json.dumps(older).encode())
    assert (read.before, read.thoughts, read.prompt.role) == ("", None, "user")
