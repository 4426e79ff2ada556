"""The server's settings: from flags, variables and a file. A misspelt variable ends the start; what
others put into the environment does not."""

from pathlib import Path

import pytest

from at2.settings import BadSettingsError
from service.settings import Settings
from tests.helpers.processes import start_server


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
    with pytest.raises(BadSettingsError) as caught:
        Settings.foreign_variables({variable: "1"})
    assert str(caught.value) == f"{variable}: there is no such setting; did you mean {nearest}?"


@pytest.mark.parametrize("name", ["BOGUS", "TOKEN", "MAX_LENGTH", "MAX_SOURCE"])
def test_one_that_is_like_no_other_is_told_alone(name: str) -> None:
    with pytest.raises(BadSettingsError) as caught:
        Settings.foreign_variables({f"AT2_{name}": "1"})
    assert str(caught.value) == f"AT2_{name}: there is no such setting"


def test_a_context_in_which_nothing_fits_is_refused_in_one_line() -> None:
    with pytest.raises(BadSettingsError) as caught:
        Settings.read(["--max-context-tokens", "7"], "at2 serve")
    assert str(caught.value) == (
        "AT2_MAX_CONTEXT_TOKENS='7': Input should be greater than or equal to 8"
    )


def test_all_of_them_are_told_and_their_values_are_not() -> None:
    with pytest.raises(BadSettingsError) as caught:
        Settings.foreign_variables({"AT2_QQQQ": "secret", "AT2_PORTS": "secret", "AT2_HOST": "::1"})
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
    foreign = KUBERNETES | others
    assert Settings.foreign_variables(foreign | own).keys() == foreign.keys()
    assert Settings.foreign_variables({"AT2_PORT": "8000"}) == {}


def test_a_port_of_kubernetes_is_not_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in KUBERNETES.items():
        monkeypatch.setenv(variable, value)
    assert Settings.read([], "at2 serve").port == 8000


def test_a_flag_wins_over_a_variable_which_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "server.toml"
    file.write_text("port = 1\nmax_spans = 2\nmax_documents = 3\nprepare = false\n")
    monkeypatch.setenv("AT2_CONFIG", str(file))
    monkeypatch.setenv("AT2_MAX_SPANS", "20")
    monkeypatch.setenv("AT2_PORT", "10")
    settings = Settings.read(["--port", "100"], "at2 serve")
    assert (settings.port, settings.max_spans, settings.max_documents) == (100, 20, 3)
    assert not settings.prepare
    other = tmp_path / "other.toml"
    other.write_text('[estimators]\nmine = "somewhere"\n')
    settings = Settings.read(["--config", str(other)], "at2 serve")
    assert (settings.estimators, settings.max_documents) == ({"mine": "somewhere"}, 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port = 70000", "AT2_PORT=70000: Input should be less than or equal to 65535"),
        ("max_span = 3", "max_span: there is no such setting; did you mean max_spans?"),
        ('api_keys = ["secret"]', "AT2_API_KEYS: Input should be a valid string"),
        ("port = x", "AT2_CONFIG='{file}': Invalid value (at line 1, column 8)"),
        (None, "AT2_CONFIG='{file}': no such file"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "server.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadSettingsError) as caught:
        Settings.read(["--config", str(file)], "at2 serve")
    assert str(caught.value) == message.format(file=file)


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
    assert process.returncode == 2
    assert output == "AT2_MAX_REQUEST: there is no such setting; did you mean AT2_MAX_REQUESTS?\n"
