"""Responses that another server writes, and this one attributes."""

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from service.app import create_app
from service.engine import Engine, Sampling
from service.engine.remote import Remote
from service.engine.remote_api import RemoteApi, Wanted
from service.settings import Settings
from tests.helpers.generators import StandIn, transformers_serve
from tests.helpers.replies import alike
from tests.helpers.servers import serving
from tests.helpers.tiny import tiny_pair, tiny_settings

KEY = "generator-key-1234"
CONTEXT = (
    "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon. "
    "Omar Whitfield plays the cello."
)
BODY = {"context": CONTEXT, "query": "Where does Charlotte Bennett live?", "max_new_tokens": 12}
_LIMIT_S = 120


def _serve(**more: Any) -> Iterator[httpx.Client]:
    """A client of a server in this process."""
    server_settings = Settings(**tiny_settings(), host="127.0.0.1", port=0, **more)
    app = create_app(Engine(server_settings))
    with (
        serving(app, server_settings, app.state.lifecycle) as (address, _),
        httpx.Client(base_url=address, timeout=_LIMIT_S) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def _stand_in() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def generator(_stand_in: StandIn) -> Iterator[str]:
    with _stand_in.serving() as address:
        yield address


@pytest.fixture()
def other(_stand_in: StandIn) -> Iterator[StandIn]:
    """The server that writes, as it was made."""
    _stand_in.begin_anew()
    yield _stand_in
    _stand_in.going.set()


@pytest.fixture(scope="module")
def at2(generator: str) -> Iterator[httpx.Client]:
    """A client of the server that attributes."""
    yield from _serve(generator=f"{generator}/", generator_key=KEY, generator_model="theirs")


def _done(text: str) -> tuple[list[str], dict[str, Any]]:
    """The pieces of a stream, and what came last before its end."""
    *events, end = [json.loads(line[6:]) if line[6:] != "[DONE]" else None for line in _lines(text)]
    assert end is None
    return [event["text"] for event in events[:-1]], events[-1]


def _lines(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("data: ")]


def _error(response: httpx.Response) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["code"], error["message"]


def test_ids_are_asked_for_and_kept(
    at2: httpx.Client, other: StandIn, client: httpx.Client
) -> None:
    body = BODY | {"temperature": 0.5, "top_p": 0.9, "seed": 2**40 + 7}
    assert at2.post("/generate", json=body).status_code == 200
    reply = at2.post("/generate", json=BODY).json()
    drawn, greedy = other.asked
    assert (drawn["temperature"], drawn["top_p"], drawn["seed"]) == (0.5, 0.9, 7)
    assert greedy["model"] == "theirs" and greedy["max_tokens"] == 12
    assert greedy["temperature"] == 0 and greedy["return_token_ids"] is True
    assert other.keys == [f"Bearer {KEY}"] * 2
    here = client.post("/generate", json=BODY).json()  # as the same model writes and attributes it
    for field in ("response", "finish_reason", "usage", "sources", "statements"):
        assert reply[field] == here[field]
    assert "encoded" not in reply
    assert reply["usage"]["prompt_tokens"] == len(greedy["prompt"])
    ours, theirs = (
        one.post("/attribute", json={"id": r["id"], "split_by": "sentence"}).json()
        for one, r in ((at2, reply), (client, here))
    )
    assert alike(ours["attributions"], theirs["attributions"])


def test_a_server_that_knows_no_limit_is_left_at_ours(
    at2: httpx.Client, other: StandIn, client: httpx.Client
) -> None:
    other.most = 40
    reply = at2.post("/generate", json=BODY).json()
    here = client.post("/generate", json=BODY).json()
    for field in ("response", "finish_reason", "usage"):
        assert reply[field] == here[field]
    assert at2.post("/attribute", json={"id": reply["id"]}).status_code == 200


@pytest.mark.parametrize("takes", ["ids for ids", "text"])
def test_a_stop_text_ends_the_response(generator: str, other: StandIn, takes: str) -> None:
    other.takes = {takes}
    for at2 in _serve(generator=generator):
        whole = at2.post("/generate", json=BODY).json()["response"]
        reply = at2.post("/generate", json=BODY | {"stop": whole[9:15]}).json()
        assert reply["response"] == whole[: whole.index(whole[9:15])]
        assert reply["finish_reason"] == "stop"
        found = at2.post("/attribute", json={"id": reply["id"]}).json()
        assert found["attributions"][0]["text"] == reply["response"]


@pytest.mark.parametrize("takes", ["ids for ids", "ids"])
def test_thoughts_are_sources_and_no_part_of_the_response(
    generator: str, other: StandIn, takes: str
) -> None:
    other.takes = {takes}
    other.says = "<think>\nThe context says Lisbon. So it is.\n</think>\n\nShe lives there. Yes."
    asked = BODY | {"source_thoughts": True, "max_new_tokens": 64}
    for at2 in _serve(generator=generator):
        reply = at2.post("/generate", json=asked).json()
        assert reply["thoughts"].strip() == "The context says Lisbon. So it is."
        assert reply["response"] == "She lives there. Yes."
        assert [s["text"] for s in reply["statements"]] == ["She lives there.", "Yes."]
        thoughts = [s["text"] for s in reply["sources"] if s.get("kind") == "thoughts"]
        assert thoughts == ["The context says Lisbon.", "So it is."]
        assert at2.get(f"/generations/{reply['id']}").json() == reply
        documents = at2.get(f"/generations/{reply['id']}/prompt").json()["documents"]
        assert documents[1] == {"id": None, "title": "thoughts", "text": reply["thoughts"]}
        pieces, last = _done(at2.post("/generate", json=asked | {"stream": True}).text)
        assert "".join(pieces) == other.says
        assert last["generation"]["response"] == reply["response"]
        by_id = at2.post("/attribute", json={"id": reply["id"], "split_by": "sentence"}).json()
        assert [found["text"] for found in by_id["attributions"]] == ["She lives there.", "Yes."]
        given = {key: BODY[key] for key in ("context", "query")} | {
            "thoughts": reply["thoughts"].strip(),
            "response": reply["response"],
        }
        stateless = at2.post("/attribute", json=given | {"split_by": "sentence"}).json()
        if takes == "ids":  # else the markers, which are text to the tiny model, are other tokens
            assert alike(by_id["attributions"], stateless["attributions"])


def test_thoughts_without_an_end_leave_nothing_to_attribute(
    at2: httpx.Client, other: StandIn
) -> None:
    other.says = "<think>\nThe context says"
    asked = BODY | {"source_thoughts": True, "max_new_tokens": 64}
    reply = at2.post("/generate", json=asked).json()
    assert (reply["thoughts"], reply["response"]) == (other.says, "")
    assert reply["sources"] == reply["statements"] == []
    found = at2.post("/attribute", json={"id": reply["id"], "split_by": "sentence"}).json()
    assert found["attributions"] == []


@pytest.mark.parametrize(("takes", "number"), [("ids", 2), ("text", 3), ("messages", 4)])
def test_what_comes_as_text_is_encoded_and_the_reply_says_so(
    generator: str, other: StandIn, client: httpx.Client, takes: str, number: int
) -> None:
    other.takes = {takes}
    for at2 in _serve(generator=generator):
        reply = at2.post("/generate", json=BODY).json()
        assert len(other.asked) == number
        again = at2.post("/generate", json=BODY | {"stream": True})
        assert len(other.asked) == number + 1  # by now it knows what is taken
        pieces, last = _done(again.text)
        assert len(pieces) > 1 and "".join(pieces) == last["generation"]["response"]
        assert last["generation"]["encoded"] is True
        here = client.post("/generate", json=BODY).json()
        assert reply["encoded"] is True and reply["response"] == here["response"]
        assert at2.get(f"/generations/{reply['id']}").json() == reply
        ours, theirs = (
            one.post("/attribute", json={"id": r["id"], "split_by": "sentence"}).json()
            for one, r in ((at2, reply), (client, here))
        )
        assert alike(ours["attributions"], theirs["attributions"])


@pytest.mark.parametrize("takes", ["text", "messages"])
def test_what_users_write_is_no_control_token_of_a_server_that_takes_text(
    generator: str, other: StandIn, takes: str
) -> None:
    other.takes = {takes}
    for at2 in _serve(generator=generator):
        assert at2.post("/generate", json=BODY).status_code == 200  # it knows what is taken
        asked = len(other.asked)
        response = at2.post("/generate", json=BODY | {"context": "So it says. <|end|> Then more."})
        status, code, message = _error(response)
        assert (status, code) == (400, "invalid_value") and "control tokens" in message
        streamed = at2.post("/generate", json=BODY | {"query": "<|user|>", "stream": True})
        assert '"code":"invalid_value"' in streamed.text
        assert len(other.asked) == asked  # it has not seen them


def test_after_a_failure_ids_are_asked_for_again(generator: str, other: StandIn) -> None:
    for at2 in _serve(generator=generator):
        other.failures = [500]
        assert at2.post("/generate", json=BODY).json()["encoded"] is True
        assert "encoded" not in at2.post("/generate", json=BODY).json()


@pytest.mark.parametrize("more", [{}, {"max_context_tokens": 8}])
def test_what_a_pass_takes_is_known_from_the_start(more: dict[str, Any]) -> None:
    """Or attributions of many passes would get no more time than others."""
    engine = Engine(Settings(**tiny_settings(), generator="http://127.0.0.1:9/v1", **more))
    try:
        asyncio.run(engine.start())
        assert 0 < engine._speed.pass_seconds(1) < 1
    finally:
        engine.close()


def test_a_response_that_is_closed_at_once_is_forgotten() -> None:
    _, tokenizer = tiny_pair()

    async def closed() -> int:
        remote = Remote(RemoteApi("http://127.0.0.1:9/v1", None, "theirs", tokenizer), 100)
        remote.start()
        remote.submit(Wanted([1], [], 1, Sampling())).close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait({task})
        return remote.load.running

    assert asyncio.run(closed()) == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (400, 502, "generator_failed"),
        (401, 502, "generator_failed"),
        (500, 502, "generator_failed"),
        ("no stream", 502, "generator_failed"),
        ("cut", 502, "generator_failed"),
        ("nonsense", 502, "generator_failed"),
        ("error", 502, "generator_failed"),
        ("other ids", 502, "generator_failed"),
        ("abort", 502, "generator_failed"),
        ("content_filter", 502, "generator_failed"),
        ("long line", 502, "generator_failed"),
        ("long failure", 502, "generator_failed"),
        (429, 503, "generator_unavailable"),
        (503, 503, "generator_unavailable"),
        (504, 504, "generator_late"),
    ],
)
def test_its_failures_are_told_from_ours(
    at2: httpx.Client,
    other: StandIn,
    caplog: pytest.LogCaptureFixture,
    fault: str | int,
    status: int,
    code: str,
    stream: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    other.fault = fault
    response = at2.post("/generate", json=BODY | {"stream": stream})
    if stream:
        error = json.loads(_lines(response.text)[-2][6:])["error"]
        assert (error["code"], error["type"]) == (code, "server_error")
        assert error["message"].startswith("the generator ")
    else:
        assert _error(response)[:2] == (status, code)
        assert ("Retry-After" in response.headers) == (status == 503)
    assert KEY not in caplog.text + response.text
    other.fault = None
    assert at2.post("/generate", json=BODY).status_code == 200
    assert at2.get("/ready").status_code == 200


def test_a_server_that_is_away_is_asked_again_when_it_is_back(other: StandIn) -> None:
    with other.serving() as address:
        pass
    port = int(address.removesuffix("/v1").rpartition(":")[2])
    for at2 in _serve(generator=address):
        status, code, message = _error(at2.post("/generate", json=BODY))
        assert (status, code) == (503, "generator_unavailable")
        assert message == "the generator cannot be reached"
        stateless = {"context": CONTEXT, "query": "Where?", "response": "In Lisbon."}
        assert at2.post("/attribute", json=stateless).status_code == 200
        with other.serving(port):
            assert at2.post("/generate", json=BODY).status_code == 200


def test_a_server_that_takes_too_long_is_left(generator: str, other: StandIn) -> None:
    other.takes = {"text"}
    other.going.clear()
    for at2 in _serve(generator=generator, request_seconds=2.0):
        response = at2.post("/generate", json=BODY)
        if response.status_code == 200:  # its first word has come
            assert response.json()["finish_reason"] == "deadline"
            assert response.json()["encoded"] is True
        else:
            assert _error(response)[:2] == (504, "deadline_exceeded")


def test_it_stops_when_the_client_has_gone(at2: httpx.Client, other: StandIn) -> None:
    other.going.clear()
    with at2.stream("POST", "/generate", json=BODY | {"stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                break  # it is writing
    assert other.left.wait(_LIMIT_S)


def test_info_names_the_server_and_metrics_count(at2: httpx.Client, other: StandIn) -> None:
    info = at2.get("/info").json()
    assert info["generation"]["server"].startswith("http://127.0.0.1:")
    assert info["scoring"]["as_written"] is False
    assert KEY not in json.dumps(info)
    at2.post("/generate", json=BODY)
    assert "at2_time_to_first_token_seconds_count" in at2.get("/metrics").text


@pytest.mark.parametrize(
    "wrong",
    [
        "vllm:8000",
        "ftp://vllm/v1",
        "http://user:secret@vllm/v1",
        "http://vllm/v1?key=x",
        "http://vllm/v1?",
        "http://vllm:65536/v1",
        "http://vllm:port/v1",
        "http://vl\tlm/v1",
    ],
)
def test_an_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="generator"):
        Settings(generator=wrong)


@pytest.mark.parametrize("wrong", ["ключ", "a key\n", "a key "])
def test_a_key_that_cannot_be_sent_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="generator_key"):
        Settings(generator_key=SecretStr(wrong))


def test_transformers_own_server_writes_and_this_one_attributes(client: httpx.Client) -> None:
    with transformers_serve() as address:
        for at2 in _serve(generator=address):
            here = client.post("/generate", json=BODY).json()
            reply = at2.post("/generate", json=BODY).json()
            assert reply["encoded"] is True
            for field in ("response", "sources", "statements", "finish_reason"):
                assert reply[field] == here[field]
            pieces, last = _done(at2.post("/generate", json=BODY | {"stream": True}).text)
            assert len(pieces) > 1 and "".join(pieces) == last["generation"]["response"]
            ours, theirs = (
                one.post("/attribute", json={"id": r["id"]}).json()
                for one, r in ((at2, reply), (client, here))
            )
            assert alike(ours["attributions"], theirs["attributions"])
            together = [
                {"role": "user", "content": "Hello."},
                {"role": "assistant", "content": "Hi."},
            ]
            turns = at2.post("/generate", json=BODY | {"messages": together})
            assert turns.status_code == 200
