"""One real server for all tests of the service: the bundled model behind a real socket."""

from collections.abc import Iterator

import httpx
import pytest

from tests.helpers.processes import running_server, start_server, wait_until_ready

__all__ = ["client", "running_server", "server", "start_server", "wait_until_ready"]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a running server."""
    with running_server() as (_, address):
        yield address


@pytest.fixture()
def client(server: str) -> Iterator[httpx.Client]:
    """A client of the running server."""
    with httpx.Client(base_url=server, timeout=120) as client:
        yield client
