"""Jobs in processes of their own: help, stopping, killing, and several at once."""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fork_server import ForkedProcess
from tests.helpers.jobs import ROOT, fork, results, start, write_config
from trainer_jobs import cli

pytestmark = pytest.mark.usefixtures("one_thread")


def test_help_names_commands_and_configurations() -> None:
    process = start("--help")
    output, _ = process.communicate()
    assert process.returncode == 0
    for word in (*cli.COMMANDS, "smollm2", "phi4_mini_dolly", "thought_attribution"):
        assert re.search(rf"\b{word}\b", output)
    process = start()
    _, errors = process.communicate()
    assert process.returncode == 2 and errors == output


def test_wrong_settings_are_told_before_models_are_imported() -> None:
    code = (
        "import sys; from trainer_jobs import cli; "
        "status = cli.main(['run', '--out', 'x', '--dataset', 'x', '--limit', '0']); "
        "print(status, 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ended.stdout == "2 False False\n"


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_that_is_cut_short_is_no_error(arguments: list[str]) -> None:
    process = start(*arguments)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()
    process.stderr.close()


def test_a_job_that_is_told_to_stop_ends_and_goes_on_later(tmp_path: Path, finished: Path) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    process = start("run", "--config", config)
    while process.poll() is None and not list((tmp_path / "out").glob("generations/0*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode in (128 + signal.SIGTERM, 0), errors
    # Nobody watches: plain lines, with the time.
    assert any(line.endswith(" INFO generate: worker 0 of 1") for line in errors.splitlines())
    assert "\r" not in errors and "it/s" not in errors
    assert "Traceback" not in errors
    assert cli.main(["run", "--config", config]) == 0
    assert results(tmp_path / "out") == results(finished)


def test_a_run_that_is_terminated_says_so(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "out", num_iterations=1_000_000)
    process = start("run", "--config", config, "--held-out", "0")
    while process.poll() is None and not list((tmp_path / "out").glob("estimators/default/ch*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert errors.splitlines()[-1] == "stopped by SIGTERM; the same command goes on from here"


def test_output_that_nobody_reads_any_longer_ends_the_run_in_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    process = start("run", "--config", config, PYTHONUNBUFFERED="1")
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read().splitlines()
    assert process.wait() == 128 + signal.SIGPIPE
    assert errors[-1] == (
        "stopped: nobody reads the output any longer; the same command goes on from here"
    )
    assert not any("Traceback" in line or "Exception ignored" in line for line in errors)
    process.stderr.close()


def test_killed_at_every_stage_a_run_ends_with_the_same_bytes(
    tmp_path: Path, finished: Path
) -> None:
    out = tmp_path / "out"
    config = write_config(tmp_path / "small.toml", out, checkpoint_every=1, num_iterations=400)
    whole = tmp_path / "whole"
    undisturbed = write_config(
        tmp_path / "whole.toml", whole, checkpoint_every=1, num_iterations=400
    )
    assert cli.main(["run", "--config", undisturbed]) == 0
    for reached in (
        "generations/0*",
        "features_and_outputs/0*",
        "estimators/default/checkpoint.safetensors",
        "evaluation/default/examples/0*",
    ):
        process = fork("run", "--config", config)
        found: list[Path] = []
        while not found and process.poll() is None:
            found = list(out.glob(reached))
            time.sleep(0.002)
        process.kill()
        process.communicate()
        assert found or process.returncode == 0
    assert cli.main(["run", "--config", config]) == 0
    assert results(out) == results(whole)
    name = "evaluation/default/evaluation.json"
    assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not list(out.rglob("*.tmp"))


def test_two_processes_at_once_make_the_same_bytes(tmp_path: Path, finished: Path) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    for stage in ("generate", "compute"):
        both = [
            fork(stage, "--config", config, "--num-jobs", "2", "--job-index", str(index))
            for index in range(2)
        ]
        for process in both:
            process.communicate()
            assert process.returncode == 0
    assert cli.main(["train", "--config", config]) == 0
    assert results(tmp_path / "out") == results(finished)


@contextmanager
def _worker_1(config: str, reached: Path) -> Iterator[ForkedProcess]:
    """The second of two workers, from where it has written a file on."""
    waiting = fork("run", "--config", config, RANK="1", WORLD_SIZE="2")
    try:
        while waiting.poll() is None and not reached.exists():
            time.sleep(0.05)
        yield waiting
    finally:
        waiting.kill()


@pytest.mark.parametrize(
    ("fails_with", "reached", "stage"),
    [
        ({"num_iterations": 7}, "status/evaluate-1-of-2.json", "train"),
        ({"dataset": "nowhere.jsonl"}, "status/generate-1-of-2.json", "generate"),
    ],
)
def test_a_worker_that_fails_before_a_stage_is_not_waited_for_in_it(
    fails_with: dict[str, Any],
    reached: str,
    stage: str,
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    out = tmp_path / "out"
    if stage == "train":
        shutil.copytree(finished, out)
    # With another number of masks no evaluation is there, so worker 0 is waited for.
    other = write_config(tmp_path / "other.toml", out, evaluate_masks=7)
    with _worker_1(other, out / reached) as waiting:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert run("run", evaluate_masks=7, **fails_with)[0] == 1
        output, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 1
    assert output.splitlines()[-1].startswith(f"error: {stage}: worker 0 of 2 stopped, on ")


def test_a_damaged_estimator_is_waited_for_while_worker_0_trains_it_again(
    tmp_path: Path,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    (out / "estimators/default/score_estimator.pt").write_bytes(b"cut off")
    config = write_config(tmp_path / "other.toml", out)
    with _worker_1(config, out / "status/compute-1-of-2.json") as waiting:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert run("run")[0] == 0
        output, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 0, output
    assert results(out) == results(finished)
