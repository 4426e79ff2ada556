"""A misspelt variable ends the start; what others put into the environment does not."""

import pytest

from service.environment import ignored
from service.settings import Settings
from tests.helpers.processes import start_server

NAMES = list(Settings.model_fields)


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("AT2_MAX_REQUEST", "AT2_MAX_REQUESTS"),
        ("AT2_APIKEYS", "AT2_API_KEYS"),
        ("at2_modell", "AT2_MODEL"),
        ("AT2_STORE_SECOND", "AT2_STORE_SECONDS"),
        ("AT2_CACHE_TOKEN", "AT2_CACHE_TOKENS"),
    ],
)
def test_a_misspelt_one_is_told_with_the_nearest_name(variable: str, nearest: str) -> None:
    with pytest.raises(ValueError) as caught:
        ignored({variable: "1"}, NAMES)
    assert str(caught.value) == f"{variable}: there is no such setting; {nearest}?"


def test_all_of_them_are_told_and_their_values_are_not() -> None:
    with pytest.raises(ValueError) as caught:
        ignored({"AT2_QQQQ": "secret", "AT2_PORTS": "secret", "AT2_HOST": "::1"}, NAMES)
    assert len(str(caught.value).splitlines()) == 2 and "secret" not in str(caught.value)


KUBERNETES = {
    "AT2_PORT": "tcp://10.96.0.7:8000",
    "AT2_SERVICE_HOST": "10.96.0.7",
    "AT2_SERVICE_PORT": "8000",
    "AT2_SERVICE_PORT_HTTP": "8000",
    "AT2_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "AT2_PORT_8000_TCP_PROTO": "tcp",
    "AT2_PORT_8000_TCP_PORT": "8000",
    "AT2_PORT_8000_TCP_ADDR": "10.96.0.7",
    "AT2_SERVER_PORT": "tcp://10.96.0.8:80",
    "AT2_SERVER_SERVICE_HOST": "10.96.0.8",
    "AT2_SERVER_PORT_80_UDP_ADDR": "10.96.0.8",
}


def test_what_belongs_to_others_is_ignored_and_told() -> None:
    others = {"AT2_JOBS_OUT": "x", "AT2_API_KEY": "x", "AT2_URL": "x", "AT2_PUBLISHED_PORT": "1"}
    own = {"AT2_MODEL": "m", "AT2_HOST": "::1", "at2_log_level": "info", "PATH": "/", "AT2_OLD": ""}
    assert ignored(KUBERNETES | others | own, NAMES).keys() == KUBERNETES.keys() | others.keys()
    assert ignored({"AT2_PORT": "8000"}, NAMES) == {}


def test_the_process_says_so_in_one_line() -> None:
    process, _ = start_server(**KUBERNETES)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "not read" in line and all(variable in line for variable in KUBERNETES)
    finally:
        process.kill()
        process.communicate()
    process, _ = start_server(AT2_MAX_REQUEST="3")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert output == "AT2_MAX_REQUEST: there is no such setting; AT2_MAX_REQUESTS?\n"
