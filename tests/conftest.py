"""Settings for every test, and the servers that they share.

Tests of mechanics use a tiny random model (`tests.helpers.tiny`), whose responses mean nothing.
Tests of behaviour use the default model; they are marked by `default_model`.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from at2.model import default, recent
from at2.utils import get_model_and_tokenizer
from tests.helpers import workers
from tests.helpers.processes import running_server
from tests.helpers.tiny import tiny_server

hypothesis_settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
hypothesis_settings.load_profile("repeatable")

_TIMEOUT_S = 120

for _variable in [name for name in os.environ if name.upper().startswith("AT2_")]:
    del os.environ[_variable]  # the settings of whoever runs the tests are not to change them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first."""
    workers.sort(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several workers, a file's tests stay together."""
    return workers.ByFile(config, log)


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of a server with the tiny model."""
    with tiny_server() as (_, address):
        yield address


@pytest.fixture()
def client(server: str) -> Iterator[httpx.Client]:
    """A client of the server with the tiny model."""
    with httpx.Client(base_url=server, timeout=_TIMEOUT_S) as client:
        yield client


@pytest.fixture(scope="session")
def default_server() -> Iterator[str]:
    """The address of a server with the default model."""
    with running_server() as (_, address):
        yield address


@pytest.fixture()
def default_client(default_server: str) -> Iterator[httpx.Client]:
    """A client of the server with the default model."""
    with httpx.Client(base_url=default_server, timeout=_TIMEOUT_S) as client:
        yield client


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """The event loop that an engine of the tests lives on."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def default_pair() -> tuple[Any, Any]:
    """The default model and its tokenizer."""
    return get_model_and_tokenizer()


@pytest.fixture()
def default_pair_by_name(
    default_pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Scripts of users, which load the default model by its name, get the one that is there."""

    def load(name: str = default.NAME) -> tuple[Any, Any]:
        assert name == default.NAME
        return default_pair

    monkeypatch.setattr("at2.utils.get_model_and_tokenizer", load)
    monkeypatch.setattr("at2.model.recent.get_model_and_tokenizer", load)
    recent.forget_models()
    yield
    recent.forget_models()
