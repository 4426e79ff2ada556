"""Stop texts: the response ends before the first of them, whatever tokens they are made of."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.stopping import StopFinder

CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello."
)
BODY = {
    "context": CONTEXT,
    "query": "Where does Charlotte Bennett live?",
    "temperature": 2.0,
    "seed": 3,
    "max_new_tokens": 40,
}
few_letters = st.text("ab😀", min_size=1, max_size=4)


def _before_stop(text: str, stops: list[str]) -> str | None:
    """What comes before a stop text, by looking again at every character; None without one."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))]
    return None


@given(
    pieces=st.lists(st.text("ab😀", max_size=4), max_size=10),
    stops=st.lists(few_letters, max_size=3),
)
def test_the_first_stop_text_is_found_however_the_text_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    finder, text = StopFinder(stops), "".join(pieces)
    given_out = taken = ""
    for piece in pieces:
        given_out += finder.step(piece)
        taken += piece
        held = taken[len(given_out) :]
        assert finder.found or not held or any(stop.startswith(held) for stop in stops)
    given_out += finder.finish()
    expected = _before_stop(text, stops)
    assert finder.found == (expected is not None)
    assert given_out == (text if expected is None else expected)
    assert finder.length == len(given_out)


def _generate(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    response = client.post("/generate", json=BODY | changes)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    return reply


def _deltas(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with client.stream("POST", path, json=body | {"stream": True}) as response:
        assert response.status_code == 200
        *lines, end = [line[6:] for line in response.iter_lines() if line.startswith("data: ")]
    assert end == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.fixture()
def full(client: httpx.Client) -> dict[str, Any]:
    """A reply without stop texts, which is long enough to be cut anywhere."""
    reply = _generate(client)
    assert len(reply["response"]) > 100 and reply["finish_reason"] == "length"
    return reply


@pytest.mark.parametrize(("start", "length"), [(0, 1), (7, 3), (30, 1), (41, 12), (60, 40)])
@pytest.mark.parametrize("as_list", [True, False])
def test_a_response_ends_before_a_stop_text_inside_or_across_tokens(
    client: httpx.Client, full: dict[str, Any], start: int, length: int, as_list: bool
) -> None:
    stop = full["response"][start : start + length]
    expected = full["response"][: full["response"].index(stop)]
    stops = ["never written", stop] if as_list else stop
    reply = _generate(client, stop=stops)
    assert reply["response"] == expected and reply["finish_reason"] == "stop"
    assert 0 < reply["usage"]["completion_tokens"] <= full["usage"]["completion_tokens"]
    assert client.get(f"/generations/{reply['id']}").json() == reply
    *deltas, done = _deltas(client, "/generate", BODY | {"stop": stops})
    assert "".join(delta["text"] for delta in deltas) == expected
    same = ("response", "finish_reason", "statements", "usage")
    assert {k: done["generation"][k] for k in same} == {k: reply[k] for k in same}


def test_what_is_left_is_attributed_as_in_the_whole_response(
    client: httpx.Client, full: dict[str, Any]
) -> None:
    stop = full["response"][50:60]
    reply = _generate(client, stop=stop)
    end = len(reply["response"])

    def attribution(name: str, **body: Any) -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = client.post("/attribute", json={"id": name} | body).json()["attributions"]
        return found

    span = {"start": 0, "end": end}
    ours, whole = attribution(reply["id"], **span), attribution(full["id"], **span)
    assert ours["text"] == ours["attributed_text"] == reply["response"]
    assert ours["sources"] == whole["sources"]
    assert attribution(reply["id"])["sources"] == ours["sources"]
    measured = attribution(reply["id"], **span, support=True)["support"]
    assert measured == pytest.approx(attribution(full["id"], **span, support=True)["support"])


def test_a_chat_ends_before_a_stop_text_and_is_cited(
    client: httpx.Client, full: dict[str, Any]
) -> None:
    body = {
        "messages": [{"role": "user", "content": BODY["query"]}],
        "documents": [CONTEXT],
        **{name: BODY[name] for name in ("temperature", "seed")},
        "max_tokens": BODY["max_new_tokens"],
        "stop": full["response"][80:90],
    }
    expected = full["response"][: full["response"].index(body["stop"])]
    reply = client.post("/v1/chat/completions", json=body).json()
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == expected and choice["finish_reason"] == "stop"
    assert choice["message"]["annotations"]
    chunks = [chunk["choices"][0] for chunk in _deltas(client, "/v1/chat/completions", body)]
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == expected
    cited = [one for chunk in chunks for one in chunk["delta"].get("annotations", [])]
    assert cited == choice["message"]["annotations"]


def test_what_stops_nothing_changes_nothing(client: httpx.Client, full: dict[str, Any]) -> None:
    beginning = full["response"][-3:] + "!"  # of which the end of the response is the beginning
    for stop in (None, "", [], ["never written", beginning]):
        reply = _generate(client, stop=stop)
        assert reply["response"] == full["response"] and reply["finish_reason"] == "length"
        deltas = _deltas(client, "/generate", BODY | {"stop": stop})
        assert "".join(delta.get("text", "") for delta in deltas) == full["response"]


@pytest.mark.parametrize(
    ("stop", "param", "says"),
    [
        ([""], "stop.0", "at least 1 character"),
        (["a"] * 17, "stop", "at most 16 items"),
        ("x" * 257, "stop.0", "at most 256 characters"),
        ([1], "stop.0", "valid string"),
        (7, "stop", "valid list"),
    ],
)
@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
def test_what_is_no_stop_text_is_refused_by_name(
    client: httpx.Client, path: str, stop: Any, param: str, says: str
) -> None:
    chat = {"messages": [{"role": "user", "content": "Hello?"}]}
    response = client.post(path, json=(BODY if path == "/generate" else chat) | {"stop": stop})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == param and says in error["message"]
