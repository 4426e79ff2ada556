"""What tests of the jobs share: one thread, a run that nothing disturbed, and a way to run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.jobs import write_config
from trainer_jobs import cli


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As in the processes that are compared with this one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def finished(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run by one worker that nothing disturbed."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(folder / "small.toml", folder / "out")
    assert cli.main(["run", "--config", config]) == 0
    return folder / "out"


@pytest.fixture()
def run(
    one_thread: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a command on a folder `out`; its status, output and errors. None leaves a setting out."""

    def run(command: str, *flags: str, **changes: Any) -> tuple[int, str, str]:
        out = changes.pop("out", tmp_path / "out")
        config = write_config(tmp_path / "small.toml", out, **changes)
        capfd.readouterr()
        status = cli.main([command, "--config", config, *flags])
        return (status, *capfd.readouterr())

    return run
