"""The clients: what they send, what they make of replies, and when they ask again."""

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from service import client as client_package
from service.client import (
    ApiError,
    AsyncClient,
    AuthenticationError,
    BadRequestError,
    BusyError,
    Client,
    ClientError,
    ConnectionFailedError,
    DeadlineError,
    NotFoundError,
    ProtocolError,
    Retry,
    ServerError,
    UnavailableError,
    UnsendableError,
    errors,
)
from service.client.retry import parse_retry_after
from service.lifecycle import Lifecycle
from service.reply_schemas import GenerateReply
from service.request_schemas import Document, Message
from tests.helpers.processes import reserved_port
from tests.helpers.servers import serving, settings
from tests.helpers.tiny import tiny_folder
from tools import sync_client

IMPATIENT = Retry(attempts=3, first_seconds=0.0, most_seconds=5.0)

GENERATION: dict[str, Any] = {
    "id": "gen-1",
    "model": "m",
    "created": 1,
    "expires": None,
    "response": "Ann lives\nin Rome 😀.",
    "finish_reason": "stop",
    "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    "sources": [],
    "statements": [],
    "of_a_newer_server": 1,
}
DELTAS = ["Ann", " lives\n", "in Rome ", "😀", "."]
ATTRIBUTION = {
    "id": "gen-1",
    "model": "m",
    "method": "at2",
    "estimator": "e",
    "attributions": [],
}


@dataclass
class Script:
    """What a server says, in order, and what it was asked."""

    replies: list[Callable[[], Response]] = field(default_factory=list)
    asked: list[tuple[str, str, Any, dict[str, str]]] = field(default_factory=list)
    address: str = ""


def _reply(status: int, content: Any, **headers: str) -> Callable[[], Response]:
    return lambda: JSONResponse(content, status, {k.replace("_", "-"): headers[k] for k in headers})


def _error(status: int, code: str, **headers: str) -> Callable[[], Response]:
    content = {"message": "no: " + code, "type": "t", "param": "p", "code": code}
    return _reply(status, {"error": content}, **headers)


def _streams(*parts: bytes, cut: bool = False) -> Callable[[], Response]:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
            await asyncio.sleep(0)
        if cut:
            raise ConnectionError

    return lambda: StreamingResponse(
        body(), media_type="text/event-stream", headers={"X-Request-ID": "r-9"}
    )


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


TEXTS = [_event({"type": "delta", "text": text}) for text in DELTAS]
END = [_event({"type": "done", "generation": GENERATION}), b"data: [DONE]\n\n"]


@pytest.fixture(scope="module")
def scripted() -> Iterator[Script]:
    script = Script()
    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])
    async def anything(path: str, request: Request) -> Response:
        body = await request.body()
        raw_path = request.scope["raw_path"].decode()
        headers = dict(request.headers)
        script.asked.append((request.method, raw_path, json.loads(body or "null"), headers))
        return script.replies.pop(0)()

    with serving(app, settings(), Lifecycle()) as (address, _):
        script.address = address
        yield script


@pytest.fixture()
def script(scripted: Script) -> Script:
    scripted.replies.clear()
    scripted.asked.clear()
    return scripted


class Both:
    """Calls either client in the same words."""

    def __init__(self, asynchronous: bool, address: str, **arguments: Any) -> None:
        self._asynchronous = asynchronous
        self._arguments = {"url": address, "retry": IMPATIENT, **arguments}

    def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        if not self._asynchronous:
            with Client(**self._arguments) as client:
                return getattr(client, name)(*args, **kwargs)

        async def run() -> Any:
            async with AsyncClient(**self._arguments) as client:
                return await getattr(client, name)(*args, **kwargs)

        return asyncio.run(run())

    def read(self, most: int | None = None, block: bool = True) -> tuple[list[str], GenerateReply]:
        """The texts of a stream, or the first so many, and its generation."""
        texts: list[str] = []
        if not self._asynchronous:
            with Client(**self._arguments) as client:
                stream = client.stream("q", "c")
                if block:
                    with stream:
                        for text in stream:
                            texts.append(text)
                            if len(texts) == most:
                                break
                else:
                    texts += list(stream)
                return texts, stream.generation

        async def run() -> tuple[list[str], GenerateReply]:
            async with AsyncClient(**self._arguments) as client:
                stream = client.stream("q", "c")
                if block:
                    async with stream:
                        async for text in stream:
                            texts.append(text)
                            if len(texts) == most:
                                break
                else:
                    texts.extend([text async for text in stream])
                return texts, stream.generation

        return asyncio.run(run())


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def make(request: pytest.FixtureRequest, script: Script) -> Callable[..., Both]:
    return lambda **arguments: Both(request.param, **({"address": script.address} | arguments))


@pytest.fixture()
def both(make: Callable[..., Both]) -> Both:
    return make()


# -- what is sent --------------------------------------------------------------------------------


def test_only_what_was_given_is_sent(both: Both, script: Script) -> None:
    script.replies = [_reply(200, GENERATION)] * 2
    both.call("generate", "q", "c")
    both.call(
        "generate",
        "q",
        documents=["one", Document(id="b", text="two"), {"title": "T", "text": "three"}],
        messages=[("user", "hi"), Message(role="assistant", content="ho"), {"role": "user"}],
        source_type="word",
        max_new_tokens=5,
        temperature=0.0,
        top_p=0.5,
        seed=0,
    )
    assert [body for _, _, body, _ in script.asked] == [
        {"query": "q", "context": "c"},
        {
            "query": "q",
            "documents": [
                {"text": "one"},
                {"id": "b", "text": "two"},
                {"title": "T", "text": "three"},
            ],
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": "ho"},
                {"role": "user"},
            ],
            "source_type": "word",
            "max_new_tokens": 5,
            "temperature": 0.0,
            "top_p": 0.5,
            "seed": 0,
        },
    ]


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        ({"generation": "gen-1"}, {"id": "gen-1"}),
        ({"generation": GenerateReply(**GENERATION), "span": (0, 3)}, {"start": 0, "end": 3}),
        ({"generation": "gen-1", "spans": [(0, 3)]}, {"spans": [{"start": 0, "end": 3}]}),
        ({"generation": "gen-1", "spans": []}, {"spans": []}),
        ({"generation": "gen-1", "quote": "x", "occurrence": 0}, {"quote": "x", "occurrence": 0}),
        (
            {"query": "q", "context": "c", "response": "r", "split_by": "sentence", "verify": True},
            {"query": "q", "context": "c", "response": "r", "split_by": "sentence", "verify": True},
        ),
        (
            {"query": "q", "messages": [("tool", "t")], "source_messages": (0,), "thoughts": ""},
            {
                "query": "q",
                "messages": [{"role": "tool", "content": "t"}],
                "source_messages": [0],
                "thoughts": "",
            },
        ),
        (
            {"generation": "gen-1", "top_k": 3, "method": "random", "source_type": "token"},
            {"top_k": 3, "method": "random", "source_type": "token"},
        ),
    ],
)
def test_every_way_to_attribute(
    both: Both, script: Script, arguments: dict[str, Any], body: dict[str, Any]
) -> None:
    script.replies = [_reply(200, ATTRIBUTION)]
    both.call("attribute", **arguments)
    if "generation" in arguments:
        body = {"id": "gen-1"} | body
    assert script.asked[0][:3] == ("POST", "/attribute", body)


def test_ids_are_quoted_into_the_path(both: Both, script: Script) -> None:
    script.replies = [_reply(200, GENERATION), lambda: Response(status_code=204)]
    assert both.call("get", "../info?x").id == "gen-1"
    assert both.call("delete", "gen-1") is None
    assert [asked[:2] for asked in script.asked] == [
        ("GET", "/generations/..%2Finfo%3Fx"),
        ("DELETE", "/generations/gen-1"),
    ]


def test_the_key_is_sent(make: Callable[..., Both], script: Script) -> None:
    script.replies = [_reply(200, GENERATION)] * 2
    make(key="k-1").call("get", "x")
    make().call("get", "x")
    assert script.asked[0][3]["authorization"] == "Bearer k-1"
    assert "authorization" not in script.asked[1][3]


# -- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "base"),
    [
        (400, BadRequestError, BadRequestError),
        (401, AuthenticationError, BadRequestError),
        (404, NotFoundError, BadRequestError),
        (413, BadRequestError, BadRequestError),
        (429, BusyError, BadRequestError),
        (500, ServerError, ServerError),
        (503, UnavailableError, ServerError),
        (504, DeadlineError, ServerError),
        (507, ServerError, ServerError),
    ],
)
def test_each_status_has_its_exception_with_the_servers_words(
    both: Both, script: Script, status: int, kind: type[ApiError], base: type[ApiError]
) -> None:
    script.replies = [_error(status, "c-1", X_Request_ID="r-1", Retry_After="7")] * 2
    for call in (lambda: both.call("info"), both.read):
        with pytest.raises(base, match="no: c-1") as caught:
            call()
        error = caught.value
        assert type(error) is kind
        assert (error.status, error.code, error.param, error.type) == (status, "c-1", "p", "t")
        assert (error.request_id, error.retry_after) == ("r-1", 7.0)


@pytest.mark.parametrize(
    "reply",
    [
        lambda: Response("<h1>Bad Gateway</h1>", 502, media_type="text/html"),
        _reply(502, {"detail": "x"}),
        _reply(502, []),
    ],
)
def test_an_error_of_something_in_between_is_named_by_its_status(
    both: Both, script: Script, reply: Callable[[], Response]
) -> None:
    script.replies = [reply]
    with pytest.raises(ServerError, match=r"http://127\.0\.0\.1.* answered 502") as caught:
        both.call("info")
    assert "\n" not in str(caught.value) and "<" not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        _reply(200, {"hello": "world"}),
        lambda: Response("<html>", 200, media_type="text/html"),
        lambda: Response(status_code=302, headers={"Location": "/login"}),
    ],
)
def test_another_kind_of_server_is_recognised(
    both: Both, script: Script, reply: Callable[[], Response]
) -> None:
    script.replies = [reply, reply]
    with pytest.raises(ProtocolError):
        both.call("info")
    with pytest.raises(ProtocolError):
        both.read()


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("http://127.0.0.1:{unused}", ConnectionFailedError),
        ("127.0.0.1:8000", UnsendableError),
        ("ftp://a", UnsendableError),
        ("http://[::", UnsendableError),
    ],
    ids=["nobody", "no scheme", "ftp", "half an address"],
)
def test_where_no_server_is_the_error_names_the_address(
    make: Callable[..., Both], address: str, kind: type[Exception]
) -> None:
    address = address.replace("{unused}", str(reserved_port()))
    for call in (lambda: make(address=address).call("info"), lambda: make(address=address).read()):
        with pytest.raises(kind) as caught:
            call()
        assert address in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"temperature": float("nan")}, {"context": "a \udfff"}, {"messages": [("user", "\udfff")]}],
)
def test_what_cannot_be_sent_is_told_as_such(both: Both, given: dict[str, Any]) -> None:
    with pytest.raises(UnsendableError) as caught:
        both.call("generate", "q", **({"context": "c"} | given))
    assert "\n" not in str(caught.value)


def test_a_key_that_is_no_header_is_told_as_such(make: Callable[..., Both]) -> None:
    with pytest.raises(UnsendableError, match="ascii"):
        make(key="ключ").call("info")


def test_a_server_that_falls_silent_is_given_up(make: Callable[..., Both], script: Script) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionFailedError, match="did not answer in time"):
            make(address=address, timeout=httpx.Timeout(60, read=0.2)).call("info")


# -- streams -------------------------------------------------------------------------------------


def _cut_anywhere(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


@given(cuts=st.lists(st.integers(min_value=0), max_size=30))
def test_a_stream_reads_the_same_however_it_is_cut(scripted: Script, cuts: list[int]) -> None:
    comment = b": still here\n\n"
    data = comment + b"".join(TEXTS) + comment + b"".join(END)
    scripted.replies = [_streams(*_cut_anywhere(data, cuts))]
    texts, generation = Both(False, scripted.address).read()
    assert texts == DELTAS
    assert generation.response == "".join(DELTAS) == GENERATION["response"]


@pytest.mark.parametrize("block", [True, False])
def test_a_stream_gives_its_pieces_and_then_the_generation(
    both: Both, script: Script, block: bool
) -> None:
    script.replies = [_streams(*TEXTS, *END)]
    texts, generation = both.read(block=block)
    assert texts == DELTAS
    assert generation.usage.completion_tokens == 4
    assert script.asked[0][2] == {"query": "q", "context": "c", "stream": True}


def test_leaving_early_leaves_no_generation(both: Both, script: Script) -> None:
    script.replies = [_streams(*TEXTS, *END)]
    with pytest.raises(ProtocolError, match="not been read to its end"):
        both.read(most=2)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("deadline_exceeded", DeadlineError),
        ("engine_down", UnavailableError),
        ("out_of_memory", ServerError),
        ("of_a_newer_server", ServerError),
    ],
)
def test_an_error_in_the_middle_is_raised_there(
    both: Both, script: Script, code: str, kind: type[ApiError]
) -> None:
    error = {"error": {"message": "late", "type": "server_error", "param": None, "code": code}}
    script.replies = [_streams(TEXTS[0], _event(error), b"data: [DONE]\n\n")]
    with pytest.raises(kind, match="late") as caught:
        both.read()
    assert type(caught.value) is kind
    assert caught.value.status is None and caught.value.request_id == "r-9"


@pytest.mark.parametrize(
    "parts",
    [
        [],
        TEXTS,
        [*TEXTS, b"data: [DONE]\n\n"],
        [*TEXTS, END[0]],
        [*TEXTS, END[0][:-20]],
        [b"data: {}\n\n"],
        [b"data: nothing\n\n"],
        [_event({"type": "delta"})],
    ],
)
def test_a_stream_that_is_not_whole_is_an_error(
    both: Both, script: Script, parts: list[bytes]
) -> None:
    script.replies = [_streams(*parts)]
    with pytest.raises(ProtocolError):
        both.read()


def test_a_connection_that_breaks_is_an_error(both: Both, script: Script) -> None:
    script.replies = [_streams(*TEXTS, cut=True)]
    with pytest.raises(ConnectionFailedError, match="broke off"):
        both.read()


# -- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again(both: Both, script: Script, status: int) -> None:
    busy = _error(status, "busy", Retry_After="0")
    script.replies = [busy, busy, _reply(200, GENERATION), busy, _streams(*TEXTS, *END)]
    assert both.call("get", "gen-1").id == "gen-1"
    assert both.read()[0] == DELTAS
    assert not script.replies


@pytest.mark.parametrize(("status", "sent"), [(429, 3), (503, 3), (500, 1), (504, 1), (400, 1)])
def test_it_is_given_up_after_the_attempts(
    both: Both, script: Script, status: int, sent: int
) -> None:
    script.replies = [_error(status, "x")] * 5
    with pytest.raises(ApiError):
        both.call("get", "gen-1")
    assert len(script.asked) == sent


def test_a_server_that_wants_a_long_wait_is_not_waited_for(both: Both, script: Script) -> None:
    script.replies = [_error(429, "busy", Retry_After="3600")]
    with pytest.raises(BusyError) as caught:
        both.call("get", "gen-1")
    assert caught.value.retry_after == 3600


@given(
    attempt=st.integers(1, 20),
    asked=st.none() | st.floats(0, 100),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_waits_double_within_bounds(attempt: int, asked: float | None, chance: float) -> None:
    retry = Retry(attempts=10, first_seconds=0.5, most_seconds=30.0)
    wait = retry.wait(attempt, asked, chance)
    if attempt >= 10 or (asked or 0) > 30:
        assert wait is None
    else:
        assert wait is not None
        assert (asked or 0) <= wait <= 30
        plain = 0.5 * 2 ** (attempt - 1)
        assert wait >= min(30, plain / 2)
        if not asked:
            assert wait <= plain


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 59.0),
        ("Fri, 31 Dec 1999 23:00:00 GMT", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    now = datetime(1999, 12, 31, 23, 59, 0, tzinfo=UTC)
    assert parse_retry_after(header, now) == seconds


# -- the package ---------------------------------------------------------------------------------


def test_the_client_needs_no_model_library() -> None:
    code = (
        "import service.client, sys; "
        "print(*{name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'transformers', 'at2', 'fastapi', 'uvicorn'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_client_for_ordinary_code_is_made_from_the_other() -> None:
    assert sync_client.TARGET.read_text(encoding="utf-8") == sync_client.made(), "run `make client`"


def test_every_exception_is_public_and_of_one_tree() -> None:
    named = set(re.findall(r"─ (\w+Error)", errors.__doc__ or ""))
    assert named == {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, ClientError) and value is not ClientError
    }
    assert {*named, "ClientError"} <= set(client_package.__all__)
    assert client_package.__all__ == sorted(client_package.__all__)


# -- the real server -----------------------------------------------------------------------------

CONTEXT = "Charlotte Bennett works for Halden Freight. Charlotte Bennett lives in Lisbon."
QUERY = "Where does Charlotte Bennett live?"


def test_a_conversation_with_the_real_server(server: str) -> None:
    with Client(server) as client:
        generation = client.generate(QUERY, CONTEXT)
        assert generation.response.strip()
        assert client.get(generation.id) == generation
        (whole,) = client.attribute(generation).attributions
        assert {CONTEXT[s.start : s.end] for s in whole.sources} == {s.text for s in whole.sources}
        stateless = client.attribute(query=QUERY, context=CONTEXT, response=generation.response)
        assert stateless.attributions[0].sources[0].text == whole.sources[0].text
        quote = generation.response[:12]
        (verified,) = client.attribute(generation, quote=quote, verify=True).attributions
        assert verified.verification is not None and verified.verification.num_tokens >= 1

        with client.stream(QUERY, documents=[CONTEXT]) as stream:
            assert "".join(stream) == generation.response
        assert stream.generation.sources == generation.sources

        with pytest.raises(BadRequestError, match="1000000") as refused:
            client.generate(QUERY, CONTEXT, max_new_tokens=1_000_000)
        assert refused.value.param == "max_new_tokens"
        client.delete(generation.id)
        with pytest.raises(NotFoundError):
            client.get(generation.id)
        assert client.info().model == str(tiny_folder())


def test_the_asynchronous_client_with_the_real_server(server: str) -> None:
    async def run() -> None:
        async with AsyncClient(server) as client:
            asked = [client.generate(QUERY, CONTEXT) for _ in range(4)]
            responses = {generation.response for generation in await asyncio.gather(*asked)}
            assert len(responses) == 1
            async with client.stream(QUERY, CONTEXT) as stream:
                assert "".join([text async for text in stream]) in responses
            attribution = await client.attribute(stream.generation, span=(0, 9), top_k=1)
            assert attribution.attributions[0].text == stream.generation.response[:9]

    asyncio.run(run())
