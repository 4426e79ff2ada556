"""A real Redis server on a free port, which a test may stop, fill and start again."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

PASSWORD = "a password of sixteen"

_START_LIMIT_S = 60.0


class RedisServer:
    """A server that keeps nothing on the disk, for clients with the password.

    Args:
        folder: where it works.

    Raises:
        pytest.skip.Exception: there is no `redis-server` here; in continuous integration that is a
            failure.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            missing = "redis-server is not installed"
            if os.environ.get("CI") == "true":
                pytest.fail(missing)
            pytest.skip(missing)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        self.url = f"redis://:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/3"
        self._command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        self._command += ["--requirepass", PASSWORD, "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without any data; returns when it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + _START_LIMIT_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert self._process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.02)

    def stop(self) -> None:
        """End it, and with it all that it keeps."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile it takes connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def client(self) -> redis.Redis:
        """A client of it."""
        return redis.Redis.from_url(self.url)


@contextmanager
def running_redis(folder: Path) -> Iterator[RedisServer]:
    """One that has started."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
