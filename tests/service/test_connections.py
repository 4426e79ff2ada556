"""Clients that send too slowly, read too slowly, or are too many, wait in vain and harm nobody."""

import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from service import logs
from service.server import Server
from tests.helpers.servers import LARGE, serving, settings, small_app

_LIMIT_S = 30.0
_HALF = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Half"
_WHOLE = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def _served(**values: object) -> Iterator[tuple[str, Server, Callable[[], int]]]:
    """An application with these settings: its address, its server, its requests under way."""
    own = settings(**values)
    app = small_app(own)
    with serving(app, own, app.state.lifecycle) as (address, server):
        yield address, server, lambda: app.state.lifecycle.under_way
        server.servers[0].get_loop().call_soon_threadsafe(app.state.gate.set)


def _connect(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=_LIMIT_S)


def _until(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(int(_LIMIT_S / 0.02)):
        if condition():
            return
        waited.wait(0.02)
    raise AssertionError("it did not come to that")


def _closed(connection: socket.socket) -> bool:
    """Whether the server closes it, with or without last words."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        pass
    return True


@pytest.fixture()
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure(level="warning", log_format="json", stream=stream)
    yield stream
    root.handlers, root.level = before
    logging.captureWarnings(False)


def test_half_sent_headers_shut_nobody_out(log: io.StringIO) -> None:
    with _served(max_connections=20) as (address, server, _), ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(_connect(address)).sendall(_HALF)
        for _ in range(30):  # each on a connection of its own
            assert httpx.get(f"{address}/ready").status_code == 200
        _until(lambda: len(server.server_state.connections) <= 20)
        assert log.getvalue().count("too many connections") == 1
        assert len(log.getvalue().splitlines()) == 1


def test_a_half_sent_body_makes_room_and_a_whole_request_does_not() -> None:
    with _served(max_connections=3) as (address, _, under_way), ExitStack() as stack:
        head = b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        waiting, half = (stack.enter_context(_connect(address)) for _ in range(2))
        waiting.sendall(head + b"{}")
        half.sendall(head + b"{")
        _until(lambda: under_way() == 2)
        for _ in range(5):
            stack.enter_context(_connect(address)).sendall(_HALF)
        assert _closed(half)
        _until(lambda: under_way() == 1)
        for _ in range(5):
            stack.enter_context(_connect(address)).sendall(_HALF)
        assert httpx.get(f"{address}/ready").status_code == 200
        assert under_way() == 1  # the whole one stays, however many come


@pytest.mark.parametrize("after", ["nothing", "a reply"])
@pytest.mark.parametrize("sent", [b"", b"GET", _HALF])
def test_headers_that_do_not_come_are_not_waited_for(
    sent: bytes, after: str, log: io.StringIO
) -> None:
    if after == "a reply" and not sent:
        return  # an idle connection: uvicorn closes it
    with _served(header_seconds=0.3) as (address, _, _), _connect(address) as connection:
        if after == "a reply":
            connection.sendall(_WHOLE)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(sent)
        assert _closed(connection)
        assert "headers of requests were not here within 0.3 seconds" in log.getvalue()
        assert httpx.get(f"{address}/ready").status_code == 200


def test_a_request_may_take_longer_than_its_headers() -> None:
    with _served(header_seconds=0.2) as (address, _, _), _connect(address) as connection:
        connection.sendall(b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        connection.settimeout(1.0)
        with pytest.raises(TimeoutError):  # neither answered nor closed
            connection.recv(1)


def test_a_body_that_stands_still_is_refused() -> None:
    with _served(header_seconds=0.3) as (address, _, _), _connect(address) as connection:
        head = b"POST /echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head + b"half")
        assert connection.recv(4096).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("read", [0, 1000])
def test_a_reply_that_is_not_read_is_given_up(read: int, log: io.StringIO) -> None:
    with _served(write_seconds=0.3) as (address, server, under_way):
        with _connect(address) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(1 + read)
            _until(lambda: "not read within 0.3 seconds" in log.getvalue())
            _until(lambda: under_way() == 0 and not server.server_state.connections)
        assert httpx.get(f"{address}/ready").status_code == 200


def test_a_reply_that_is_read_slowly_arrives_whole() -> None:
    """It takes far longer than the limit, at a pace above the slowest."""
    with _served(write_seconds=3.0) as (address, _, _), _connect(address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received, waited = 0, threading.Event()
        while piece := connection.recv(2**20):
            received += len(piece)
            waited.wait(0.02)
        assert received > LARGE


def test_what_is_no_http_leaves_one_line(log: io.StringIO) -> None:
    with _served() as (address, _, _):
        for _ in range(50):
            with _connect(address) as connection:
                connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        assert len(log.getvalue().splitlines()) == 1
