"""A server that cannot start says why in one line and ends."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.app import create_app
from service.cli import main
from service.engine import Engine
from service.settings import Settings
from tests.helpers.processes import start_server
from tests.helpers.servers import logging_restored
from tests.helpers.tiny import tiny_environment, tiny_folder

_LIMIT_S = 120


@pytest.fixture()
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `main` sets for its whole process is put back. Any port will do."""
    monkeypatch.setenv("AT2_PORT", "0")
    monkeypatch.setenv("AT2_MODEL", str(tiny_folder()))
    ends = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with logging_restored():
        yield
    for number, end in ends.items():
        signal.signal(number, end)


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A folder of things that are not what they are taken for."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong" / "config.json").write_text('{"model_type": "no-such-type"}')
    (tmp_path / "nothing.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_bytes(b"not an estimator")
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 torn")
    return tmp_path


def test_a_start_that_fails_leaves_no_thread_that_keeps_the_process() -> None:
    before = set(threading.enumerate())
    engine = Engine(Settings(model=str(tiny_folder())))
    app = create_app(engine)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB")

    async def start() -> None:
        async with app.router.lifespan_context(app):
            pass

    engine.loaded.model.register_forward_pre_hook(fail)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            asyncio.run(start())
        left = [thread for thread in threading.enumerate() if thread not in before]
        assert not [thread for thread in left if not thread.daemon]
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("flags", "status", "named"),
    [
        (["--port", "seventy"], 2, "AT2_PORT"),
        (["--dtype", "int3"], 2, "AT2_DTYPE"),
        (["--estimators", "nonsense"], 2, "AT2_ESTIMATORS"),
        (["--host", "0.0.0.0"], 2, "AT2_API_KEYS"),
        (["--model", "no/such-model"], 1, "no/such-model"),
        (["--model", "{folder}/empty"], 1, "empty"),
        (["--estimator", "no-such-estimator"], 1, "no-such-estimator"),
        (["--estimator", "{folder}/nothing.pt"], 1, "nothing.pt"),
        (["--estimator", "{folder}/torn.pt"], 1, "torn.pt"),
        (["--estimators", "mine={folder}/empty"], 1, "'mine'"),
        (["--store", "{folder}/empty"], 1, "the store 'empty'"),
        (["--device", "no-such-device"], 1, "no-such-device"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    folder: Path,
    restored: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    status: int,
    named: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["serve", *(flag.format(folder=folder) for flag in flags)]) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("{")]
    assert len(lines) == 1 and named in lines[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_in_use_is_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    with socket.create_server((host, 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--host", host, "--port", str(port), "--model", "no/such-model"]) == 2
    assert capsys.readouterr().err == (
        f"AT2_HOST={host}, AT2_PORT={port}: address already in use\n"
    )


def test_an_address_of_another_machine_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--host", "192.0.2.1", "--port", "8000", "--allow-no-key"]  # for documents only
    assert main(["serve", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("AT2_HOST=192.0.2.1, AT2_PORT=8000: ")


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [
        ("AT2_MODEL", "{folder}/wrong", "wrong"),
        ("AT2_ESTIMATOR", "{folder}/text.pt", "text.pt"),
    ],
)
def test_the_process_ends_with_status_1_and_no_stack(
    folder: Path, setting: str, value: str, named: str
) -> None:
    process, _ = start_server(
        forked=True, **tiny_environment() | {setting: value.format(folder=folder)}
    )
    output, _ = process.communicate(timeout=_LIMIT_S)
    assert process.returncode == 1
    assert named in output and "Traceback" not in output


def test_an_estimator_file_cannot_run_code(
    tmp_path: Path, restored: None, capsys: pytest.CaptureFixture[str]
) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"class": "LinearScoreEstimator", "state_dict": Bomb()}, tmp_path / "bomb.pt")
    assert main(["serve", "--estimator", str(tmp_path / "bomb.pt")]) == 1
    assert "bomb.pt" in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()
