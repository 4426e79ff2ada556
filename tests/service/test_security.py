"""Who may call, how much they may send, and what browsers are told."""

import asyncio
import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from service.security import (
    ApiKeys,
    Keyring,
    TrustedHosts,
    check_exposure,
    is_loopback,
    is_open,
    key_id,
    origins,
)
from tests.helpers.servers import serving, settings, small_app

KEY = "a-key-of-sixteen-or-more"
OTHER = "another-key-just-as-long"
LIMIT = 2048

Call = Callable[..., httpx.Response]


def _caller(**values: Any) -> Call:
    """Calls an application of its own with these settings, without a socket."""
    app = small_app(settings(**values))

    def call(method: str, path: str, **request: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **request)

        return asyncio.run(send())

    return call


@pytest.fixture(scope="module")
def open_call() -> Call:
    return _caller(max_body_bytes=LIMIT)


@pytest.fixture(scope="module")
def keyed_call() -> Call:
    return _caller(api_keys=SecretStr(f"{OTHER}, {KEY}"))


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    own = settings(max_body_bytes=LIMIT)
    app = small_app(own)
    with serving(app, own, app.state.lifecycle) as (address, _):
        yield address


def _error(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


# -- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [KEY, OTHER])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_a_known_key_is_let_in(keyed_call: Call, key: str, scheme: str) -> None:
    reply = keyed_call("POST", "/echo/a", headers={"Authorization": f"{scheme} {key}"})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "missing_api_key"),
        ("", "missing_api_key"),
        ("Bearer", "missing_api_key"),
        ("Bearer  ", "missing_api_key"),
        (f"Basic {KEY}", "missing_api_key"),
        (KEY, "missing_api_key"),
        (f"Bearer {KEY[:-1]}", "invalid_api_key"),
        (f"Bearer {KEY}x", "invalid_api_key"),
        (f"Bearer {KEY.upper()}", "invalid_api_key"),
        (f"Bearer {KEY},{OTHER}", "invalid_api_key"),
        (f"Bearer {KEY}\xe9", "invalid_api_key"),
    ],
)
def test_anything_else_is_refused_with_a_challenge(
    keyed_call: Call, header: str | None, code: str
) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    reply = keyed_call("POST", "/echo/a", headers=headers)
    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    error = _error(reply)
    assert (error["type"], error["code"]) == ("authentication_error", code)
    assert KEY not in reply.text and OTHER not in reply.text


@pytest.mark.parametrize("path", ["/health", "/ready", "/", "/docs", "/openapi.json"])
def test_what_holds_nothing_of_anybodys_is_open(keyed_call: Call, path: str) -> None:
    assert keyed_call("GET", path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/metrics", "/nothing", "/health/", "//health", "/docsx", "/generations/x", "/info"]
)
def test_everything_else_is_closed_even_where_nothing_is(keyed_call: Call, path: str) -> None:
    assert keyed_call("GET", f"http://test{path}").status_code == 401


@given(st.text(alphabet="/.abcdefghilmnoprstu-", max_size=20))
def test_a_path_that_is_not_named_is_closed(tail: str) -> None:
    path = f"/generations/{tail}"
    assert not is_open(path, open_metrics=True)


def test_metrics_are_open_only_where_asked_for() -> None:
    call = _caller(api_keys=SecretStr(KEY), open_metrics=True)
    assert call("GET", "/metrics").status_code == 200


def test_a_body_is_not_read_before_the_key_is_seen(keyed_call: Call) -> None:
    reads = 0

    async def body() -> Any:
        nonlocal reads
        reads += 1
        yield b"x"

    assert keyed_call("POST", "/echo/a", content=body()).status_code == 401
    assert reads <= 1  # the transport of the test asks once by itself


def test_the_document_says_which_operations_need_a_key(keyed_call: Call, open_call: Call) -> None:
    document = keyed_call("GET", "/openapi.json").json()
    assert document["paths"]["/echo/{name}"]["post"]["security"]
    assert "security" not in document["paths"]["/health"]["get"]
    assert "securitySchemes" not in open_call("GET", "/openapi.json").json().get("components", {})


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        (",", "no key"),
        (" , ", "no key"),
        ("short", "5 characters"),
        (f"{KEY},tiny", "key 2"),
        (f"{KEY} with a blank", "key 1 has a blank"),
        ("ключ-ключ-ключ-ключ", "key 1"),
    ],
)
def test_a_malformed_key_is_named_by_its_place_and_not_shown(keys: str, named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        ApiKeys.of(settings(api_keys=SecretStr(keys)))
    assert "AT2_API_KEYS" in str(caught.value)
    assert KEY not in str(caught.value) and "tiny" not in str(caught.value)


def test_keys_come_from_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# of the team\n{KEY}\r\n\n  {OTHER}  \n")
    keys = ApiKeys.of(settings(api_keys_file=path, api_keys=SecretStr("x" * 16)))
    assert keys.accept(KEY) and keys.accept(OTHER) and keys.accept("x" * 16)
    assert not keys.accept("# of the team") and not keys.accept("")


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n", b"\xff\xfe\x00"])
def test_a_key_file_without_keys_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"AT2_API_KEYS_FILE=.*keys: ") as caught:
        ApiKeys.of(settings(api_keys_file=path))
    assert "\n" not in str(caught.value)


def test_no_key_is_kept_in_memory() -> None:
    own = settings(api_keys=SecretStr(KEY))
    assert KEY not in repr(ApiKeys.of(own))
    assert KEY not in repr(own)


def _renewed(path: Path, content: str, keyring: Keyring) -> None:
    path.write_text(content)
    keyring.look_again()


def test_a_file_of_keys_is_read_again_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY)
    keyring = Keyring(settings(api_keys_file=path))
    assert keyring.accept(KEY) == key_id(KEY) and keyring.accept(OTHER) is None
    _renewed(path, f"{KEY}\n{OTHER}\n", keyring)
    assert keyring.accept(KEY) == key_id(KEY) and keyring.accept(OTHER) == key_id(OTHER)
    _renewed(path, OTHER, keyring)
    assert keyring.accept(KEY) is None and keyring.accept(OTHER) is not None
    for broken in ("", "short", f"{KEY}\nshort"):
        _renewed(path, broken, keyring)
        assert keyring.accept(OTHER) is not None and keyring.accept(KEY) is None
    path.unlink()
    keyring.look_again()
    assert keyring.accept(OTHER) is not None
    assert "the keys stay as they were" in caplog.text
    assert KEY not in caplog.text and OTHER not in caplog.text


def test_a_server_takes_a_new_key_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEY)
    call = _caller(api_keys_file=path)
    headers = {"Authorization": f"Bearer {OTHER}"}
    assert call("POST", "/echo/a", headers=headers).status_code == 401
    path.write_text(OTHER)  # it is looked at once a second
    while call("POST", "/echo/a", headers=headers).status_code == 401:
        pass
    headers = {"Authorization": f"Bearer {KEY}"}
    assert call("POST", "/echo/a", headers=headers).status_code == 401


def test_the_id_of_a_key_tells_keys_apart_and_nothing_of_them() -> None:
    ids = {key_id(key) for key in (KEY, OTHER, KEY.upper())}
    assert len(ids) == 3
    for one in ids:
        assert len(one) == 12 and not hashlib.sha256(KEY.encode()).hexdigest().startswith(one)


# -- hosts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "127.0.0.1",
        "127.0.0.1:1",
        "[::1]:8000",
        "[::1]",
        "192.168.1.7:8000",
        "app.localhost",
        "localhost.",
        socket.gethostname(),
        "",
    ],
)
def test_own_names_and_addresses_are_trusted(host: str) -> None:
    assert TrustedHosts.of(settings()).accept(host, "127.0.0.1")


FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    "127.0.0.1.nip.io:80",
    "evil",
    "localhost:80:80.evil",
    "[evil]",
    "xlocalhost",
]


@pytest.mark.parametrize("host", FOREIGN)
def test_names_of_others_are_not(host: str) -> None:
    assert not TrustedHosts.of(settings()).accept(host, "127.0.0.1")


def test_more_names_are_a_setting() -> None:
    hosts = TrustedHosts.of(settings(trusted_hosts="At2.example.org, *.intern.example"))
    for name in (
        "at2.example.org",
        "AT2.example.org:443",
        "a.intern.example",
        "b.a.intern.example",
    ):
        assert hosts.accept(name, "")
    for name in ("x.at2.example.org", "intern.example", "xintern.example", "example.org"):
        assert not hosts.accept(name, "")
    assert TrustedHosts.of(settings(trusted_hosts="*")).accept("evil.example", "")
    for name in ("https://a.org", "a.org:80", "a.*.org", "a b"):
        with pytest.raises(ValueError, match="AT2_TRUSTED_HOSTS"):
            TrustedHosts.of(settings(trusted_hosts=name))


@pytest.mark.parametrize("path", ["/health", "/", "/echo/a", "/metrics"])
def test_a_page_whose_name_leads_here_is_refused(open_call: Call, path: str) -> None:
    headers = {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}
    reply = open_call("GET", path, headers=headers)
    assert reply.status_code == 421
    error = _error(reply)
    assert error["code"] == "untrusted_host" and "'evil.example:8000'" in error["message"]


def test_with_keys_any_name_will_do_unless_names_are_set(keyed_call: Call) -> None:
    headers = {"Host": "at2.example.org", "Authorization": f"Bearer {KEY}"}
    assert keyed_call("POST", "/echo/a", headers=headers).status_code == 200
    call = _caller(api_keys=SecretStr(KEY), trusted_hosts="other.example.org")
    assert call("POST", "/echo/a", headers=headers).status_code == 421


# -- exposure ------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_may_call_without_a_key(host: str) -> None:
    assert is_loopback(host)
    check_exposure(settings(host=host), ApiKeys(()))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "127.0.0.1.nip"])
def test_other_machines_need_one_or_a_decision(host: str) -> None:
    with pytest.raises(ValueError, match="AT2_ALLOW_NO_KEY"):
        check_exposure(settings(host=host), ApiKeys(()))
    check_exposure(settings(host=host, allow_no_key=True), ApiKeys(()))
    check_exposure(settings(host=host), ApiKeys.of(settings(api_keys=SecretStr(KEY))))


# -- browsers ------------------------------------------------------------------------------------


def test_no_other_origin_may_call_unless_named(open_call: Call) -> None:
    origin = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    reply = open_call("OPTIONS", "/echo/a", headers=origin)
    assert "access-control-allow-origin" not in reply.headers
    reply = open_call("POST", "/echo/a", headers=origin)
    assert "access-control-allow-origin" not in reply.headers


def test_a_named_origin_may_and_another_may_not() -> None:
    call = _caller(
        cors_origins="https://App.Example, http://localhost:3000", api_keys=SecretStr(KEY)
    )
    for origin, allowed in [("https://app.example", True), ("https://evil.example", False)]:
        preflight = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        reply = call("OPTIONS", "/echo/a", headers=preflight)  # browsers send no key with it
        assert ("access-control-allow-origin" in reply.headers) is allowed
        reply = call("POST", "/echo/a", headers={"Origin": origin})
        assert reply.status_code == 401  # and the page can read that
        assert ("access-control-allow-origin" in reply.headers) is allowed


@pytest.mark.parametrize("name", ["example.org", "https://a/b", "https://*.a.org", "null", "file:"])
def test_what_is_no_origin_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="AT2_CORS_ORIGINS"):
        origins(settings(cors_origins=f"https://a.org,{name}"))


@pytest.mark.parametrize("path", ["/health", "/", "/docs", "/nothing", "/bug", "/refuse"])
def test_every_reply_tells_browsers_to_do_nothing_with_it(open_call: Call, path: str) -> None:
    headers = open_call("GET", path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "server" not in headers


def test_only_the_documentation_may_run_scripts_inside_the_page(open_call: Call) -> None:
    assert "unsafe-inline" in open_call("GET", "/docs").headers["Content-Security-Policy"]
    assert "unsafe-inline" not in open_call("GET", "/").headers["Content-Security-Policy"]


# -- replies -------------------------------------------------------------------------------------


def test_a_bug_says_nothing_of_itself(open_call: Call) -> None:
    reply = open_call("GET", "/bug")
    assert reply.status_code == 500
    assert _error(reply) == {
        "message": "internal error",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert reply.headers["X-Request-ID"]


@pytest.mark.parametrize(
    "given_id", ["abc", "a" * 128, "Root=1-67891233-abcdef012345678912345678", "9f.e_2:/+=@-"]
)
def test_a_request_id_comes_back(open_call: Call, given_id: str) -> None:
    reply = open_call("POST", "/echo/a", headers={"X-Request-ID": given_id})
    assert reply.headers["X-Request-ID"] == given_id == reply.json()["id"]


@pytest.mark.parametrize("given_id", ["", "a b", "a" * 129, 'x","level":"fatal', "é", "a\tb"])
def test_an_id_that_could_forge_a_log_line_is_replaced(open_call: Call, given_id: str) -> None:
    headers = {"X-Request-ID": given_id.encode("latin-1")}
    replies = [open_call("GET", path, headers=headers) for path in ("/health", "/nothing", "/bug")]
    ids = {reply.headers["X-Request-ID"] for reply in replies}
    assert len(ids) == 3 and given_id not in ids
    assert all(len(one) == 32 and one.isalnum() for one in ids)


# -- body size -----------------------------------------------------------------------------------


def _chunked(size: int) -> Iterator[bytes]:
    for start in range(0, size, 500):
        yield b"x" * min(500, size - start)


@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT])
def test_a_body_up_to_the_limit_arrives_whole(address: str, size: int) -> None:
    for content in (b"x" * size, _chunked(size)):
        reply = httpx.post(f"{address}/echo/a", content=content, timeout=30)
        assert reply.json()["size"] == size


@pytest.mark.parametrize("size", [LIMIT + 1, 3 * LIMIT, 500 * LIMIT])
def test_a_larger_one_is_refused_announced_or_chunked(address: str, size: int) -> None:
    for content in (b"x" * size, _chunked(size)):
        reply = httpx.post(f"{address}/echo/a", content=content, timeout=30)
        assert reply.status_code == 413
        error = _error(reply)
        assert error["code"] == "body_too_large" and str(LIMIT) in error["message"]
        assert reply.headers["Connection"] == "close"
    assert httpx.post(f"{address}/echo/a", content=b"x", timeout=30).status_code == 200


def test_one_that_waits_for_consent_is_refused_without_it(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            f"POST /echo/a HTTP/1.1\r\nHost: {host}\r\nContent-Length: {LIMIT + 1}\r\n"
            "Expect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")


def test_a_body_that_stops_half_way_harms_nobody(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            f"POST /echo/a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100\r\n\r\nhalf".encode()
        )
    assert httpx.post(f"{address}/echo/a", content=b"x", timeout=30).status_code == 200


def _half_sent(address: str, sent: int) -> socket.socket:
    """A connection whose request announces the largest body there may be, and sends part of it."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /echo/a HTTP/1.1\r\nHost: {host}\r\nContent-Length: {LIMIT}\r\n\r\n"
    connection.sendall(head.encode() + b"x" * sent)
    return connection


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    own = settings(request_seconds=0.2)
    app = small_app(own)
    with serving(app, own, app.state.lifecycle) as (address, _), _half_sent(address, 5) as waiting:
        received = b""
        while b"0.2 seconds" not in received and (piece := waiting.recv(4096)):
            received += piece  # head and body may come apart
        assert received.startswith(b"HTTP/1.1 408") and b"0.2 seconds" in received


def test_bodies_together_take_up_no_more_than_there_is_room_for(address: str) -> None:
    with ExitStack() as stack:
        full = [stack.enter_context(_half_sent(address, LIMIT - 1)) for _ in range(16)]
        with httpx.Client(base_url=address, timeout=30) as client:
            refused = client.post("/echo/a", content=b"x" * 40)
            while refused.status_code == 200:  # the others' bytes are still on their way
                refused = client.post("/echo/a", content=b"x" * 40)
            assert refused.status_code == 429
            assert _error(refused)["code"] == "server_busy"
            assert client.post("/echo/a", content=b"x" * 30).status_code == 200  # a small one
            assert int(refused.headers["Retry-After"]) >= 1
            for connection in full:
                connection.sendall(b"x")
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            assert client.post("/echo/a", content=b"x" * LIMIT).status_code == 200
