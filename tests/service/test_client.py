"""The clients: what they send, and what they make of replies."""

import asyncio
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import Response

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
    ServerError,
    UnavailableError,
    UnsendableError,
    errors,
)
from service.reply_schemas import GenerateReply
from service.request_schemas import Document, Message
from tests.helpers.client_script import (
    ATTRIBUTION,
    GENERATION,
    Both,
    Script,
    error_reply,
    json_reply,
)
from tests.helpers.processes import reserved_port
from tests.helpers.tiny import tiny_folder
from tools import sync_client

# -- what is sent --------------------------------------------------------------------------------


def test_only_what_was_given_is_sent(both: Both, script: Script) -> None:
    script.replies = [json_reply(200, GENERATION)] * 2
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
    script.replies = [json_reply(200, ATTRIBUTION)]
    both.call("attribute", **arguments)
    if "generation" in arguments:
        body = {"id": "gen-1"} | body
    assert script.asked[0][:3] == ("POST", "/attribute", body)


def test_ids_are_quoted_into_the_path(both: Both, script: Script) -> None:
    script.replies = [json_reply(200, GENERATION), lambda: Response(status_code=204)]
    assert both.call("get", "../info?x").id == "gen-1"
    assert both.call("delete", "gen-1") is None
    assert [asked[:2] for asked in script.asked] == [
        ("GET", "/generations/..%2Finfo%3Fx"),
        ("DELETE", "/generations/gen-1"),
    ]


def test_the_key_is_sent(make_both: Callable[..., Both], script: Script) -> None:
    script.replies = [json_reply(200, GENERATION)] * 2
    make_both(key="k-1").call("get", "x")
    make_both().call("get", "x")
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
    script.replies = [error_reply(status, "c-1", X_Request_ID="r-1", Retry_After="7")] * 2
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
        json_reply(502, {"detail": "x"}),
        json_reply(502, []),
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
        json_reply(200, {"hello": "world"}),
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
    make_both: Callable[..., Both], address: str, kind: type[Exception]
) -> None:
    address = address.replace("{unused}", str(reserved_port()))
    for call in (
        lambda: make_both(address=address).call("info"),
        lambda: make_both(address=address).read(),
    ):
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


@pytest.mark.parametrize(
    "key", ["geheimer-schlüssel", "secret-key\n", " secret-key", "secret\0key"]
)
def test_a_key_that_is_no_header_is_told_as_such_and_not_shown(
    make_both: Callable[..., Both], key: str
) -> None:
    with pytest.raises(UnsendableError, match="the key cannot be sent") as caught:
        make_both(key=key).call("info")
    assert "geheim" not in str(caught.value) and "secret" not in str(caught.value)


@pytest.mark.parametrize("address", ["http://127.0.0.1:65536", "http://a..b", "localhost:8000"])
def test_an_address_that_is_none_is_told_as_such(
    make_both: Callable[..., Both], address: str
) -> None:
    with pytest.raises(UnsendableError, match="is not an address such as"):
        make_both(address=address).call("info")


def test_a_server_that_falls_silent_is_given_up(
    make_both: Callable[..., Both], script: Script
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectionFailedError, match="did not answer in time"):
            make_both(address=address, timeout=httpx.Timeout(60, read=0.2)).call("info")


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
