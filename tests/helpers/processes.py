"""The server as an operator runs it: `python -m service` in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

_START_LIMIT_S = 300
_STOP_LIMIT_S = 30


def start_server(*command: str, **settings: str) -> tuple[subprocess.Popen[str], str]:
    """Start `python -m service` on a free port; returns the process and its address.

    It logs warnings only, unless the settings say otherwise: nobody reads its output meanwhile, and
    a full pipe would stop it.

    Args:
        command: instead of `service`, a module that reads the same settings, and its arguments.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AT2_")}
    environment |= {"AT2_PORT": str(port), "AT2_HOST": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    environment |= {"AT2_LOG_LEVEL": "warning"}
    process = subprocess.Popen(
        [sys.executable, "-m", *(command or ("service",))],
        env=environment | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process, f"http://127.0.0.1:{port}"


def wait_until_ready(process: subprocess.Popen[str], address: str) -> None:
    """Return when the server answers.

    Raises:
        RuntimeError: it ended or takes too long; the message has its output.
    """
    deadline = time.monotonic() + _START_LIMIT_S
    while True:
        try:
            httpx.get(f"{address}/ready").raise_for_status()
            return
        except httpx.TransportError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                output = process.communicate()[0]
                raise RuntimeError(f"the server did not start:\n{output}") from None
            time.sleep(0.2)


@contextmanager
def running_server(*command: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of its own for one test: the process and its address, ready. See `start_server`."""
    process, address = start_server(*command, **settings)
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
