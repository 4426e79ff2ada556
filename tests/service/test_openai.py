"""/v1 as the protocol says: what is taken, what is refused by name, and what is cited."""

import inspect
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai.resources.chat.completions import Completions

from service.app import create_app
from service.engine import Engine, limits
from service.openai_schemas import ChatRequest
from service.settings import Settings
from tests.helpers.servers import serving
from tests.helpers.tiny import tiny_folder, tiny_settings

DOCUMENTS = [
    {"id": "a", "text": "Charlotte Bennett works for Halden Freight. She lives in Lisbon."},
    {"title": "Music", "text": "Omar Whitfield plays the cello. 😀 Olga Petrov sings."},
]
USER = {"role": "user", "content": "Where does Charlotte Bennett live?"}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "find_home", "arguments": '{"who": "Charlotte Bennett"}'},
}
RESULT = {
    "role": "tool",
    "tool_call_id": "call_1",
    "content": "Charlotte Bennett lives in Lisbon. She moved in 2019.",
}
TURNS = [
    {"role": "system", "content": "Charlotte Bennett lives in Lisbon. Omar Whitfield plays."},
    {"role": "user", "content": "Who is Omar Whitfield?"},
    {"role": "assistant", "content": "Omar Whitfield plays the cello."},
    USER,
]


def _post(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/v1/chat/completions", json={"messages": [USER]} | body)


def _chat(client: httpx.Client, **body: Any) -> dict[str, Any]:
    response = _post(client, **body)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def _annotations(reply: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = reply["choices"][0]["message"]["annotations"]
    return found


def _cited(reply: dict[str, Any]) -> list[dict[str, Any]]:
    return [source for one in _annotations(reply) for source in one["sources"]]


def _error(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_a_completion_is_the_generation_of_the_same_documents(client: httpx.Client) -> None:
    reply = _chat(client, documents=DOCUMENTS)
    plain = client.post("/generate", json={"documents": DOCUMENTS, "query": USER["content"]}).json()
    (choice,) = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == plain["response"]
    assert choice["finish_reason"] == plain["finish_reason"]
    assert reply["object"] == "chat.completion" and reply["model"] == str(tiny_folder())
    usage = plain["usage"]
    assert reply["usage"] == usage | {"total_tokens": sum(usage.values())}


def test_every_statement_is_annotated_with_what_attribute_ranks_first(client: httpx.Client) -> None:
    reply = _chat(client, documents=DOCUMENTS)
    message = reply["choices"][0]["message"]
    found = client.post("/attribute", json={"id": reply["id"], "split_by": "sentence"}).json()
    assert len(message["annotations"]) == len(found["attributions"]) > 0
    assert _cited(reply)
    for annotation, attribution in zip(message["annotations"], found["attributions"], strict=True):
        start, end = annotation["start"], annotation["end"]
        assert message["content"][start:end] == annotation["text"] == attribution["text"]
        ranked = attribution["sources"][: len(annotation["sources"])]
        assert [(s["score"], s["text"]) for s in annotation["sources"]] == [
            (s["score"], s["text"]) for s in ranked
        ]
        for source in annotation["sources"]:
            document = DOCUMENTS[source["document"]]
            assert document["text"][source["start"] : source["end"]] == source["text"]
            assert source["document_id"] == document.get("id")
            assert source["document_title"] == document.get("title")


@pytest.mark.parametrize(
    "shape",
    [
        "The pool opens at seven.",
        {"text": "The pool opens at seven."},
        {"content": "The pool opens at seven."},
        {"data": "The pool opens at seven."},
        {"data": {"text": "The pool opens at seven."}},
        {"data": {"snippet": "The pool opens at seven."}},
    ],
)
def test_documents_may_have_the_shapes_that_clients_know(client: httpx.Client, shape: Any) -> None:
    reply = _chat(client, documents=[shape])
    expected = _chat(client, documents=[{"text": "The pool opens at seven."}])
    assert reply["choices"] == expected["choices"]


def test_without_documents_the_earlier_turns_are_cited(client: httpx.Client) -> None:
    reply = _chat(client, messages=TURNS)
    record = client.get(f"/generations/{reply['id']}").json()
    assert [s["document"] for s in record["sources"]] == [0, 0, 1, 2]
    for source in [*record["sources"], *_cited(reply)]:
        content = TURNS[source["document"]]["content"]
        assert content[source["start"] : source["end"]] == source["text"]
    for source in _cited(reply):
        assert source["document_title"] == TURNS[source["document"]]["role"]
    prompt = client.get(f"/generations/{reply['id']}/prompt").json()
    assert [d["text"] for d in prompt["documents"]] == [turn["content"] for turn in TURNS]
    again = client.post("/attribute", json={"id": reply["id"], "source_type": "document"}).json()
    assert {s["document"] for s in again["attributions"][0]["sources"]} == {0, 1, 2}


def test_the_turns_that_are_sources_can_be_chosen(client: httpx.Client) -> None:
    reply = _chat(client, messages=TURNS, attribution={"source_messages": [3, 1]})
    record = client.get(f"/generations/{reply['id']}").json()
    assert [s["document"] for s in record["sources"]] == [1, 3]
    error = _error(_post(client, messages=TURNS, attribution={"source_messages": [4]}))
    assert "no message 4" in error["message"] and error["param"] == "attribution.source_messages"


def test_what_a_tool_returned_is_cited(client: httpx.Client) -> None:
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]
    reply = _chat(client, messages=turns)
    prompt = client.get(f"/generations/{reply['id']}/prompt").json()
    called = '{"name": "find_home", "arguments": {"who": "Charlotte Bennett"}}'
    texts = [USER["content"], called, RESULT["content"]]
    assert [d["text"] for d in prompt["documents"]] == texts
    assert _cited(reply)
    only = _chat(client, messages=turns, attribution={"source_messages": "tool"})
    assert only["choices"][0]["message"]["content"] == reply["choices"][0]["message"]["content"]
    record = client.get(f"/generations/{only['id']}").json()
    assert [s["text"] for s in record["sources"]] == [
        "Charlotte Bennett lives in Lisbon.",
        "She moved in 2019.",
    ]
    assert {s["document"] for s in _cited(only)} == {2}
    assert {s["document_title"] for s in _cited(only)} == {"tool"}
    asked = _chat(client, messages=[*turns, USER])  # a question behind it is no source
    record = client.get(f"/generations/{asked['id']}").json()
    assert {s["document"] for s in record["sources"]} == {0, 1, 2}


def test_turns_may_be_sources_beside_documents(client: httpx.Client) -> None:
    options = {"source_messages": "tool"}
    reply = _chat(client, messages=[RESULT, USER], documents=DOCUMENTS, attribution=options)
    record = client.get(f"/generations/{reply['id']}").json()
    assert {s["document"] for s in record["sources"]} == {0, 1, 2}
    assert [s.get("kind") for s in record["sources"]][-2:] == ["message", "message"]
    for source in _cited(reply):
        titles = [None, "Music", "tool"]
        assert source["document_title"] == titles[source["document"]]


def test_a_question_alone_has_nothing_to_cite(client: httpx.Client) -> None:
    reply = _chat(client)
    assert reply["choices"][0]["message"]["content"]
    assert reply["choices"][0]["message"]["annotations"] == []
    found = client.post("/attribute", json={"id": reply["id"]}).json()
    assert found["attributions"][0]["sources"] == []


def test_statements_have_the_support_that_attribute_measures(client: httpx.Client) -> None:
    plain = _annotations(_chat(client, documents=DOCUMENTS))
    reply = _chat(client, documents=DOCUMENTS, attribution={"support": True})
    body = {"id": reply["id"], "split_by": "sentence", "support": True}
    found = client.post("/attribute", json=body).json()["attributions"]
    annotations = _annotations(reply)
    assert [(one["support"], one["verdict"]) for one in annotations] == [
        (one["support"], one["verdict"]) for one in found
    ]
    assert len(annotations) == len(plain) > 0
    for one, other in zip(annotations, plain, strict=True):
        assert {"support", "verdict"}.isdisjoint(other)
        assert one == other | {"support": one["support"], "verdict": one["verdict"]}


def test_support_of_turns_is_measured_as_well(client: httpx.Client) -> None:
    reply = _chat(client, messages=TURNS, attribution={"support": True})
    assert all(isinstance(one["support"], float) for one in _annotations(reply))
    alone = _chat(client, attribution={"support": True})
    assert alone["choices"][0]["message"]["annotations"] == []


def test_citations_can_be_turned_off_and_cut_otherwise(client: httpx.Client) -> None:
    for off in (False, {"enabled": False}):
        reply = _chat(client, documents=DOCUMENTS, attribution=off)
        assert reply["choices"][0]["message"]["annotations"] == []
    options = {"source_type": "document", "top_k": 1, "method": "average_attention"}
    reply = _chat(client, documents=DOCUMENTS, attribution=options)
    assert {source["text"] for source in _cited(reply)} <= {d["text"] for d in DOCUMENTS}
    assert all(len(one["sources"]) <= 1 for one in reply["choices"][0]["message"]["annotations"])


def test_values_that_clients_send_and_that_change_nothing_are_taken(client: httpx.Client) -> None:
    reply = _chat(
        client,
        model=str(tiny_folder()),
        n=1,
        stop=None,
        tools=[],
        tool_choice="auto",
        response_format={"type": "text"},
        logprobs=False,
        presence_penalty=0,
        frequency_penalty=0.0,
        temperature=None,
        top_p=None,
        stream=False,
        store=True,
        user="u",
        metadata={"a": "b"},
        prompt_cache_retention="24h",
        prompt_cache_options={"ttl": 60},
        logit_bias={},
    )
    assert reply["choices"] == _chat(client)["choices"]


def test_every_parameter_of_openais_client_is_known_by_name() -> None:
    """And taken or refused as what it is, not as a mistake in spelling."""
    parameters = set(inspect.signature(Completions.create).parameters)
    own = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
    assert parameters - own <= set(ChatRequest.model_fields)


def test_content_in_parts_is_its_lines_and_a_reply_can_be_sent_back(client: httpx.Client) -> None:
    parts = [{"type": "text", "text": "Omar sings."}, {"type": "text", "text": "Olga plays."}]
    reply = _chat(client, messages=[{"role": "developer", "content": parts}, USER])
    prompt = client.get(f"/generations/{reply['id']}/prompt").json()
    assert prompt["messages"] == [{"role": "system", "content": "Omar sings.\nOlga plays."}]
    _chat(client, messages=[USER, reply["choices"][0]["message"], USER])


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logprobs": True}, "logprobs"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"attribution": {"method": "leave_one_out"}}, "attribution.method"),
        ({"attribution": {"estimator": "none"}}, "attribution.estimator"),
        (
            {"attribution": {"method": "average_attention", "estimator": "any"}},
            "attribution.estimator",
        ),
        ({"attribution": {"top_k": 0}}, "attribution.top_k"),
        ({"attribution": {"support": 1}}, "attribution.support"),
        ({"attribution": {"support": True, "citation_format": "cohere"}}, "attribution"),
        ({"documents": [{"text": "a", "url": "b"}]}, "documents.0.url"),
        ({"documents": [{"data": 1}]}, "documents.0"),
        ({"documents": []}, "documents"),
        ({"max_tokens": 10**6}, "max_tokens"),
        ({"max_completion_tokens": 10**6}, "max_completion_tokens"),
        ({"messages": [USER | {"name": "Ann"}]}, "messages.0.name"),
        ({"messages": [{"role": "robot", "content": "x"}, USER]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0"),
        ({"messages": [USER | {"tool_calls": [CALL]}]}, "messages.0"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"type": "x"}]}, USER]},
            "messages.0.tool_calls.0.type",
        ),
        ({"documents": DOCUMENTS, "messages": [USER, RESULT]}, None),
        ({"attribution": {"source_messages": "tool"}}, None),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        ({"messages": TURNS[:3]}, None),
        ({"messages": [USER | {"content": " "}]}, None),
        ({"max_tokens": 1, "max_completion_tokens": 2}, None),
        (
            {"documents": DOCUMENTS, "attribution": {"source_messages": [0]}},
            "attribution.source_messages",
        ),
        ({"attribution": {"source_messages": "some"}}, "attribution.source_messages"),
        ({"attribution": {"source_messages": [0, True]}}, "attribution.source_messages"),
        ({"moderation": {"model": "m"}}, "moderation"),
    ],
)
def test_what_would_change_the_reply_is_refused_by_name(
    client: httpx.Client, change: dict[str, Any], param: str | None
) -> None:
    response = _post(client, **change)
    assert response.status_code == 400
    error = _error(response)
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert error["message"] and "\n" not in error["message"]


def test_only_the_served_model_is_there(client: httpx.Client) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == str(tiny_folder()) and model["object"] == "model"
    assert client.get(f"/v1/models/{model['id']}").json() == model
    for response in (_post(client, model="gpt-4o"), client.get("/v1/models/gpt-4o")):
        assert response.status_code == 404
        error = _error(response)
        assert error["code"] == "model_not_found" and "gpt-4o" in error["message"]


def test_it_is_counted_as_the_generation_and_the_attribution_that_it_is(
    client: httpx.Client,
) -> None:
    def counted() -> tuple[float, ...]:
        lines = dict(
            line.rsplit(" ", 1)
            for line in client.get("/metrics").text.splitlines()
            if line[0] != "#"
        )
        names = (
            'at2_generation_duration_seconds_count{finish_reason="stop"}',
            'at2_attribution_duration_seconds_count{method="at2"}',
        )
        return tuple(float(lines.get(name, 0)) for name in names)

    before = counted()
    assert _chat(client, documents=DOCUMENTS)["choices"][0]["finish_reason"] == "stop"
    assert [after - old for after, old in zip(counted(), before, strict=True)] == [1, 1]


def _chunks(client: httpx.Client, **body: Any) -> list[dict[str, Any]]:
    body = {"messages": [USER], "documents": DOCUMENTS, "stream": True} | body
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        *lines, end = [line for line in response.iter_lines() if line.startswith("data: ")]
    assert end == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"temperature": 2.0, "seed": 3, "max_tokens": 90},
        {"documents": None, "messages": TURNS, "max_tokens": 60},
        {"attribution": {"min_share": 0.0, "source_type": "word"}},
    ],
)
def test_a_stream_joins_to_the_whole_reply(client: httpx.Client, change: dict[str, Any]) -> None:
    chunks = _chunks(client, stream_options={"include_usage": True}, **change)
    whole = _chat(client, **{"documents": DOCUMENTS} | change)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    *body, usage = chunks
    assert usage["choices"] == [] and usage["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in body)
    deltas = [chunk["choices"][0]["delta"] for chunk in body]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in body]
    (choice,) = whole["choices"]
    assert reasons == [None] * (len(body) - 1) + [choice["finish_reason"]]
    assert "".join(delta.get("content", "") for delta in deltas) == choice["message"]["content"]
    annotations = [one for delta in deltas for one in delta.get("annotations", [])]
    assert annotations == choice["message"]["annotations"] != []
    assert client.get(f"/generations/{chunks[0]['id']}").status_code == 200


def test_a_stream_repeats_its_citations_with_their_support(client: httpx.Client) -> None:
    change = {"documents": None, "messages": TURNS, "temperature": 2.0, "seed": 3, "max_tokens": 90}
    chunks = _chunks(client, **change, attribution={"support": True})
    whole = _chat(client, **change, attribution={"support": True})
    given = [one for chunk in chunks for one in chunk["choices"][0]["delta"].get("annotations", [])]
    expected = _annotations(whole)
    early, late = given[: -len(expected)], given[-len(expected) :]
    assert late == expected and early
    bare = [{k: v for k, v in one.items() if k not in ("support", "verdict")} for one in expected]
    assert early == bare[: len(early)]


@pytest.fixture(scope="module")
def small_replies() -> Iterator[httpx.Client]:
    """A client of a server whose replies may have few sources."""
    own = Settings(**tiny_settings(), host="127.0.0.1", port=0)
    app = create_app(Engine(own))
    with (
        pytest.MonkeyPatch.context() as patch,
        serving(app, own, app.state.lifecycle) as (address, _),
        httpx.Client(base_url=address, timeout=120) as client,
    ):
        patch.setattr(limits, "MOST_RANKED", 3)
        yield client


def test_the_size_of_a_reply_is_that_of_what_it_cites(small_replies: httpx.Client) -> None:
    options = {"top_k": 1, "min_share": 1.0}
    reply = _chat(small_replies, documents=DOCUMENTS, attribution=options)
    assert "attribution_error" not in reply and len(_annotations(reply)) > 0
    response = small_replies.post("/attribute", json={"id": reply["id"], "split_by": "sentence"})
    assert response.status_code == 400


@pytest.mark.parametrize("shape", [None, "anthropic", "cohere"])
def test_where_citing_fails_the_response_is_there_and_says_why(
    small_replies: httpx.Client, shape: str | None
) -> None:
    options = {"min_share": 0.0, "source_type": "word", "citation_format": shape}
    reply = _chat(small_replies, documents=DOCUMENTS, attribution=options)
    error = reply["attribution_error"]
    assert (error["code"], error["param"]) == ("invalid_value", "attribution.top_k")
    assert "3" in error["message"]
    assert _annotations(reply) == [] and reply["choices"][0]["message"]["content"]
    chunks = _chunks(small_replies, attribution=options)
    assert chunks[-1]["attribution_error"] == error
    assert chunks[-1]["choices"][0]["finish_reason"] == reply["choices"][0]["finish_reason"]
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert "".join(texts) == reply["choices"][0]["message"]["content"]
    counted = small_replies.get("/metrics").text
    assert 'at2_errors_total{code="invalid_value",type="invalid_request_error"}' in counted


def test_a_stream_without_citations_or_usage_has_neither(client: httpx.Client) -> None:
    chunks = _chunks(client, attribution=False)
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks)
    assert not any("annotations" in chunk["choices"][0]["delta"] for chunk in chunks)


def test_what_is_wrong_is_refused_before_the_stream(client: httpx.Client) -> None:
    for change in ({"n": 2}, {"documents": ["x " * 20_000]}, {"model": "other"}):
        response = _post(client, stream=True, **change)
        assert response.status_code in (400, 404) and _error(response)["message"]
