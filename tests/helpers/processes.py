"""The server as an operator runs it: `python -m service` in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from tests.helpers.fork_server import ForkedProcess

Process = subprocess.Popen[str] | ForkedProcess

_START_LIMIT_S = 300
_STOP_LIMIT_S = 60
_ANSWER_LIMIT_S = 30

_reserved: list[socket.socket] = []
"""Sockets whose ports are nobody else's for as long as this process lives."""


def reserved_port() -> int:
    """A port at which nobody listens, and which the system gives to nobody who asks for any.

    A server that is told to may listen on it, where it sets `SO_REUSEADDR` (Linux).
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    port: int = held.getsockname()[1]
    if sys.platform == "linux":
        _reserved.append(held)
    else:
        held.close()
    return port


def start_server(*command: str, forked: bool = False, **settings: str) -> tuple[Process, str]:
    """Start `python -m service` on a port of its own; returns the process and its address.

    It logs warnings only, unless the settings say otherwise: nobody reads its output meanwhile, and
    a full pipe would stop it.

    Args:
        command: instead of `service`, a module that reads the same settings, and its arguments.
        forked: begin with the libraries imported, which takes some seconds less.
    """
    port = reserved_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AT2_")}
    environment |= {"AT2_PORT": str(port), "AT2_HOST": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    environment |= {"AT2_LOG_LEVEL": "warning"}
    environment |= settings
    address = f"http://127.0.0.1:{port}"
    if forked:
        return ForkedProcess(command or ("service",), environment), address
    process = subprocess.Popen(
        [sys.executable, "-m", *(command or ("service",))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, address


def wait_until_ready(process: Process, address: str) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: it ended or takes too long; the message has its output.
    """
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            httpx.get(f"{address}/ready", timeout=_ANSWER_LIMIT_S).raise_for_status()
            return
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                output = process.communicate()[0]
                raise RuntimeError(f"the server did not start:\n{output}") from None
            time.sleep(0.2)


@contextmanager
def running_server(
    *command: str, forked: bool = False, **settings: str
) -> Iterator[tuple[Process, str]]:
    """A server of its own for one test: the process and its address, ready. See `start_server`."""
    process, address = start_server(*command, forked=forked, **settings)
    try:
        wait_until_ready(process, address)
        yield process, address
    finally:
        process.terminate()
        try:
            process.communicate(timeout=_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
