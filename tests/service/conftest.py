"""One real server for all tests of the service: the bundled model behind a real socket."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest

_START_LIMIT_S = 120


def start_server(**settings: str) -> tuple[subprocess.Popen[str], str]:
    """Start `python -m service` on a free port; returns the process and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AT2_")}
    environment |= {"AT2_PORT": str(port), "AT2_HOST": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env=environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a running server."""
    process, address = start_server()
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            httpx.get(f"{address}/ready").raise_for_status()
            break
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                pytest.fail(f"the server did not start:\n{process.communicate()[0]}")
            time.sleep(0.2)
    yield address
    process.terminate()
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


@pytest.fixture()
def client(server: str) -> Iterator[httpx.Client]:
    """A client of the running server."""
    with httpx.Client(base_url=server, timeout=120) as client:
        yield client
