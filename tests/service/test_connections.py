"""Clients that send too slowly, read too slowly, or are too many, wait in vain and harm nobody."""

import asyncio
import io
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from fastapi import FastAPI

from service.server import Server
from tests.helpers.servers import LARGE, logged, serving, settings, small_app

_LIMIT_S = 120.0
_HALF = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nX-Half"
_WHOLE = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True)
class _ServedApp:
    """An application behind a socket."""

    address: str
    server: Server
    app: FastAPI

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self.server.servers[0].get_loop()

    @property
    def under_way(self) -> int:
        """Requests that have begun; one whose reply has just come may still be among them."""
        return int(self.app.state.lifecycle.under_way)

    def open_gate(self) -> None:
        """Let the requests for `/wait` go on."""
        self.loop.call_soon_threadsafe(self.app.state.gate.set)


@contextmanager
def _served(**values: object) -> Iterator[_ServedApp]:
    """An application with these settings."""
    own = settings(**values)
    app = small_app(own)
    with serving(app, own, app.state.lifecycle) as (address, server):
        served = _ServedApp(address, server, app)
        try:
            yield served
        finally:
            served.open_gate()


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


@contextmanager
def _busy(served: _ServedApp) -> Iterator[None]:
    """The server accepts nobody meanwhile."""
    over = threading.Event()
    held: Future[None] = Future()

    def hold() -> None:
        held.set_result(None)
        over.wait(_LIMIT_S)

    served.loop.call_soon_threadsafe(hold)
    held.result(_LIMIT_S)
    try:
        yield
    finally:
        over.set()


def _ask(served: _ServedApp, request: bytes) -> socket.socket:
    """A connection whose request is there when the server accepts it, however busy this process
    is: no limit on what is sent too slowly can hit it."""
    with _busy(served):
        connection = _connect(served.address)
        connection.sendall(request)
    return connection


def _is_ready(served: _ServedApp) -> bool:
    with _ask(served, _WHOLE) as connection:
        return connection.recv(4096).startswith(b"HTTP/1.1 200")


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
    with logged("warning") as stream:
        yield stream


def test_half_sent_headers_shut_nobody_out(log: io.StringIO) -> None:
    with _served(max_connections=20) as served, ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(_connect(served.address)).sendall(_HALF)
        for _ in range(30):  # each on a connection of its own
            with _connect(served.address) as connection:
                connection.sendall(_WHOLE)
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        _until(lambda: len(served.server.server_state.connections) <= 20)
        assert log.getvalue().count("too many connections") == 1
        assert len(log.getvalue().splitlines()) == 1


def test_a_small_limit_leaves_a_queue_for_those_who_connect_at_once() -> None:
    """While the server is at something else, all of them are connected: none has to try again."""
    with _served(max_connections=3) as served, ExitStack() as stack:
        with _busy(served):
            for _ in range(100):
                stack.enter_context(_connect(served.address))
        assert _is_ready(served)


def test_a_half_sent_body_makes_room_and_a_whole_request_does_not() -> None:
    with _served(max_connections=3) as served, ExitStack() as stack:
        head = b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
        whole, half = (stack.enter_context(_connect(served.address)) for _ in range(2))
        whole.sendall(head + b"{}")
        half.sendall(head + b"{")
        _until(lambda: served.under_way == 2)
        for _ in range(5):
            stack.enter_context(_connect(served.address)).sendall(_HALF)
        assert _closed(half)
        for _ in range(5):
            stack.enter_context(_connect(served.address)).sendall(_HALF)
        assert _is_ready(served)
        served.open_gate()
        assert whole.recv(4096).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("after", ["nothing", "a reply"])
@pytest.mark.parametrize("sent", [b"", b"GET", _HALF])
def test_headers_that_do_not_come_are_not_waited_for(
    sent: bytes, after: str, log: io.StringIO
) -> None:
    if after == "a reply" and not sent:
        return  # an idle connection: uvicorn closes it
    with _served(header_seconds=0.3) as served:
        with _ask(served, _WHOLE if after == "a reply" else sent) as connection:
            if after == "a reply":
                assert connection.recv(4096).startswith(b"HTTP/1.1 200")
                connection.sendall(sent)
            assert _closed(connection)
        assert "headers of requests were not here within 0.3 seconds" in log.getvalue()
        assert _is_ready(served)


def test_a_request_may_take_longer_than_its_headers() -> None:
    with _served(header_seconds=0.2) as served:
        request = b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
        with _ask(served, request) as connection:
            _until(lambda: served.under_way == 1)
            with _connect(served.address) as later:
                assert _closed(later)  # so its limit is over, and that of the earlier one
            served.open_gate()
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_a_body_that_stands_still_is_refused() -> None:
    with _served(header_seconds=0.3) as served:
        head = b"POST /echo/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
        with _ask(served, head + b"half") as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("read", [0, 1000])
def test_a_reply_that_is_not_read_is_given_up(read: int, log: io.StringIO) -> None:
    with _served(write_seconds=0.3) as served:
        with _connect(served.address) as connection:
            connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(1 + read)
            _until(lambda: "not read within 0.3 seconds" in log.getvalue())
            _until(lambda: not served.under_way and not served.server.server_state.connections)
        assert _is_ready(served)


def test_a_reply_that_is_read_slowly_arrives_whole() -> None:
    """It takes far longer than the limit, at a pace above the slowest."""
    with _served(write_seconds=3.0) as served, _connect(served.address) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received, waited = 0, threading.Event()
        while piece := connection.recv(2**20):
            received += len(piece)
            waited.wait(0.02)
        assert received > LARGE


def test_what_is_no_http_leaves_one_line(log: io.StringIO) -> None:
    with _served() as served:
        for _ in range(50):
            with _connect(served.address) as connection:
                connection.sendall(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
                assert connection.recv(4096).startswith(b"HTTP/1.1 400")
        assert len(log.getvalue().splitlines()) == 1
