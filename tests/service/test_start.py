"""A server that cannot start says why in one line and ends."""

import os
from pathlib import Path

import pytest
import torch

from tests.service.conftest import start_server


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"AT2_PORT": "seventy"}, "AT2_PORT"),
        ({"AT2_DTYPE": "int3"}, "AT2_DTYPE"),
        ({"AT2_MODEL": "no/such-model"}, "no/such-model"),
        ({"AT2_ESTIMATOR": "no-such-estimator"}, "no-such-estimator"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, str], named: str) -> None:
    process, _ = start_server(**settings)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert named in output
    assert "Traceback" not in output


@pytest.mark.parametrize("content", [b"", b"not an estimator", b"PK\x03\x04 torn"])
def test_a_broken_estimator_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "score_estimator.pt"
    path.write_bytes(content)
    process, _ = start_server(AT2_ESTIMATOR=str(path))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "score_estimator.pt" in output and "Traceback" not in output


def test_an_estimator_file_cannot_run_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    torch.save({"class": "LinearScoreEstimator", "state_dict": Bomb()}, tmp_path / "bomb.pt")
    process, _ = start_server(AT2_ESTIMATOR=str(tmp_path / "bomb.pt"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert not (tmp_path / "exploded").exists()
