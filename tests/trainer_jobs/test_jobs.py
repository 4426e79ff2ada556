"""The command line of the jobs on a tiny model: results, summaries, workers, errors."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from at2 import LinearScoreEstimator
from tests.helpers.jobs import (
    SMALL,
    model_folder,
    results,
    row,
    write_rows,
)
from trainer_jobs import cli, stages

RUN = ["run", "--out", "x", "--dataset", "x"]
PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("one_thread")


# -- results ---------------------------------------------------------------------------------------


def test_a_run_leaves_an_estimator_and_its_story(finished: Path) -> None:
    estimator = LinearScoreEstimator.load(finished / "estimators/default")
    assert estimator.extras["training"]["examples"] <= SMALL["limit"]  # type: ignore[operator]
    assert estimator.extras["metrics"]["examples"] <= SMALL["held_out"]  # type: ignore[operator]
    assert (finished / "estimators/default/loss.png").read_bytes().startswith(PNG)
    evaluation = json.loads((finished / "evaluation/default/evaluation.json").read_text("utf-8"))
    assert list(evaluation["values"]) == SMALL["methods"]
    assert evaluation["num_examples"] == SMALL["held_out"]
    assert (finished / "evaluation/default/evaluation.png").read_bytes().startswith(PNG)
    table = (finished / "evaluation/default/evaluation.md").read_text("utf-8")
    assert "Linear datamodeling score" in table and "average_attention" in table


def test_the_lines_of_the_walk_through_are_printed(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    status, output, _ = run("run", held_out=0)
    assert status == 0
    lines = output.splitlines()
    assert re.fullmatch(r"Training on \d examples of 5", lines[0])
    assert [line.partition("=")[0] for line in lines if line.startswith("Step ")] == [
        "Step 0: loss",
        "Step 2: loss",
        "Step 5: loss",
    ]
    assert any(line.startswith("Saved estimator to ") for line in lines)


def test_the_summary_has_what_the_run_came_to(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text("utf-8"))
    assert summary["examples"] == {"train": 5, "held_out": 2}
    assert summary["bad_rows"] == summary["skipped"] == []
    record = json.loads((finished / "estimators/default/training.json").read_text("utf-8"))
    training = summary["training"]
    assert training["steps"] == len(record["losses"]) == 6
    assert training["first_loss"] == record["losses"][0]
    assert training["last_loss"] == record["losses"][-1]
    assert Path(training["loss_curve"]) == finished / "estimators/default/loss.png"
    assert summary["evaluation"] == str(finished / "evaluation/default")
    assert list(summary["stages"]) == ["generate", "compute", "train", "evaluate"]
    for costs in summary["stages"].values():
        assert costs["workers"] == 1 and costs["seconds"] >= 0 and costs["peak_memory_mb"] > 50
    for name, value in SMALL.items():
        assert summary["settings"][name] == value


def test_two_workers_make_the_same_bytes(
    finished: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    for stage in ("generate", "compute"):
        for index in ("1", "0"):
            assert run(stage, "--num-jobs", "2", "--job-index", index)[0] == 0
    # The others have nothing to train, and say so.
    assert run("train", "--num-jobs", "2", "--job-index", "1")[0] == 0
    assert not (tmp_path / "out/estimators").exists()
    status, output, _ = run("train", "--num-jobs", "2", "--job-index", "0")
    assert status == 0
    assert "s of 2 workers together" in output
    assert results(tmp_path / "out") == results(finished)
    summary = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    assert [summary["stages"][s]["workers"] for s in ("generate", "compute", "train")] == [2, 2, 1]


def test_slurm_says_which_worker_this_is(
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "3")
    assert run("generate")[0] == 0
    shards = sorted(p.name for p in (tmp_path / "out/generations").glob("0*"))
    assert shards == ["00001.json"]


def test_an_evaluation_goes_on_where_it_was(
    finished: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    assert run("run")[0] == 0
    folder = tmp_path / "out/evaluation/default"
    whole = (folder / "evaluation.json").read_bytes()
    assert whole == (finished / "evaluation/default/evaluation.json").read_bytes()
    kept, damaged = sorted((folder / "examples").glob("*.json"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-5])
    written = kept.stat().st_mtime_ns
    (folder / "evaluation.json").unlink()
    assert run("evaluate")[0] == 0
    assert (folder / "evaluation.json").read_bytes() == whole
    assert damaged.read_bytes() == content
    assert kept.stat().st_mtime_ns == written
    # Another way to measure is another result.
    assert run("evaluate", evaluate_masks=7)[0] == 0
    assert kept.stat().st_mtime_ns != written
    assert (folder / "evaluation.json").read_bytes() != whole


def test_without_anything_held_out_a_run_ends_with_the_estimator(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    status, output, _ = run("run", held_out=0, limit=3)
    assert status == 0
    assert (tmp_path / "out/estimators/default/score_estimator.safetensors").exists()
    assert not (tmp_path / "out/evaluation").exists()
    assert "Held out:" not in output and "3 to train on, 0 held out" in output
    status, _, errors = run("evaluate", held_out=0, limit=3)
    assert (status, errors.splitlines()[-1]) == (
        1,
        "error: held_out=0: no example to evaluate with",
    )


def test_an_estimator_may_weigh_powers_of_attention(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    assert run("run", exponents=[1, 0.5], limit=3, held_out=1)[0] == 0
    folder = tmp_path / "out/estimators/default"
    estimator = LinearScoreEstimator.load(folder)
    assert estimator.head_weights.shape == (2, 3, 4)
    assert "| `exponents` | `1, 0.5` |" in (folder / "README.md").read_text("utf-8")
    # features of other powers are others
    status, _, errors = run("compute", exponents=[1], limit=3, held_out=1)
    assert status == 1 and "features" in errors.splitlines()[-1]


# -- data that cannot be used ----------------------------------------------------------------------


@pytest.fixture()
def with_bad_rows(tmp_path: Path) -> dict[str, Any]:
    """Settings for a file with a line that is no row, and one that is too long for the model."""
    path = tmp_path / "data.jsonl"
    long = {**row(0), "context": f"{row(0)['context']} " * 50}
    path.write_text(
        "\n".join([json.dumps(row(0)), "{", json.dumps(long), json.dumps(row(1))]), "utf-8"
    )
    return {"dataset": str(path), "held_out": 0, "shuffle_seed": None}


def test_bad_rows_and_examples_can_be_passed_over(
    tmp_path: Path,
    with_bad_rows: dict[str, Any],
    run: Callable[..., tuple[int, str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    status, output, _ = run("run", bad_rows="skip", **with_bad_rows)
    assert status == 0
    reason = "line 2: not JSON: Expecting property name enclosed in double quotes at character 1"
    assert f"passed over {with_bad_rows['dataset']}, {reason}" in caplog.messages
    summary = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    assert summary["bad_rows"] == [reason]
    (skipped,) = summary["skipped"]
    assert skipped.startswith("example 1 (line 3): ") and "512" in skipped
    assert summary["examples"]["train"] == 3
    assert summary["training"]["examples"] == 2
    lines = output.splitlines()
    assert f"  {reason}" in lines and f"  {skipped}" in lines
    assert "Trained on 2 examples; 1 gave no target" in lines


def test_a_bad_row_stops_the_run_in_one_line(
    with_bad_rows: dict[str, Any], run: Callable[..., tuple[int, str, str]]
) -> None:
    status, output, errors = run("generate", **with_bad_rows)
    assert status == 1 and output == ""
    assert errors.splitlines()[-1].startswith(
        f"error: {with_bad_rows['dataset']}, line 2: not JSON: "
    )


def test_an_example_that_is_too_long_stops_the_run_with_its_line(
    with_bad_rows: dict[str, Any], run: Callable[..., tuple[int, str, str]]
) -> None:
    path = Path(with_bad_rows["dataset"])
    lines = path.read_text("utf-8").splitlines()
    path.write_text("\n".join([lines[0], lines[2]]), "utf-8")
    status, _, errors = run("generate", **with_bad_rows)
    assert status == 1
    assert errors.splitlines()[-1].startswith("error: example 1 (line 2): ")


# -- what goes wrong -------------------------------------------------------------------------------


def test_a_model_without_thoughts_has_nothing_to_train_on(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"prompt": "Who is Ada?"}))
    changes = {"dataset": str(data), "task": "thought", "held_out": 0}
    status, _, errors = run("run", "--columns", "query=prompt", **changes)
    assert status == 1
    assert errors.splitlines()[-1] == "error: no example has a target to train on"


@pytest.mark.parametrize(
    ("command", "changes", "message"),
    [
        ("compute", {}, "no responses yet: run generate() first"),
        ("evaluate", {}, "no estimator 'default' yet: run train first"),
        ("generate", {"model": "no/where/at/all"}, "cannot load model 'no/where/at/all': "),
        ("generate", {"dataset": "absent.csv"}, "cannot read absent.csv: No such file"),
        ("generate", {"dataset": "absent.json"}, "cannot read absent.json: No such file"),
    ],
)
def test_an_error_is_one_line_and_status_1(
    command: str,
    changes: dict[str, Any],
    message: str,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    status, output, errors = run(command, **changes)
    assert status == 1 and output == ""
    (line,) = (line for line in errors.splitlines() if line.startswith("error: "))
    assert line.startswith(f"error: {message}")
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ["at2", "nope"]}, "no method 'nope'; there are: at2, "),
        ({"save_name": "../x"}, "save_name is '../x', not letters, digits, "),
        ({"out": "nope://x/y"}, "nope://x/y: Unsupported filesystem: 'nope'"),
        ({"push_to_hub": "a/b/c"}, "push_to_hub: "),
        ({"engine": "ray", "out": "memory://x"}, "out=memory://x: actors do not share"),
    ],
)
def test_what_the_library_does_not_take_is_refused_at_once(
    settings: dict[str, Any],
    message: str,
    tmp_path: Path,
    run: Callable[..., tuple[int, str, str]],
) -> None:
    status, _, errors = run("generate", **settings)
    assert status == 2
    assert errors.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_one_line_with_what_to_change(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def allocate(job: stages.Job, stage: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 1.00 TiB")

    monkeypatch.setattr(stages, "share", allocate)
    status, _, errors = run("compute")
    assert status == 1
    assert "token_budget" in errors.splitlines()[-1] and "Traceback" not in errors


def test_a_folder_is_for_one_set_of_settings(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("generate", limit=2, held_out=0)[0] == 0
    status, _, errors = run("generate", limit=2, held_out=0, max_new_tokens=5)
    assert status == 1
    line = errors.splitlines()[-1]
    assert "generations was made with other settings" in line
    assert "max_new_tokens is 5, but was 6" in line


def test_a_file_where_the_folder_should_be_is_one_line(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "out").write_text("")
    status, _, errors = run("generate", limit=2, held_out=0)
    assert status == 1
    assert errors.splitlines()[-1].startswith("error: cannot write generations/manifest.json: ")


def test_a_summary_that_cannot_be_written_is_one_line(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "out/summary.json").mkdir(parents=True)
    status, _, errors = run("generate", limit=2, held_out=0)
    assert status == 1
    assert errors.splitlines()[-1].startswith("error: ") and "summary.json" in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], 'Unknown command "fly". Available commands: generate, compute, train'),
        (
            ["run", "--out", "x", "--dataset", "x", "--num-masks", "0"],
            "num_masks='0': Input should be greater",
        ),
        ([*RUN, "--num-jobs", "2", "--job-index", "0"], "num_jobs=2: a stage needs"),
        ([*RUN, "--job-index", "0"], "job_index=0: num_jobs is not set"),
    ],
)
def test_wrong_settings_are_one_line_and_status_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(message) and shown.err.count("\n") == 1


@pytest.mark.parametrize("name", ["training.json", "score_estimator.safetensors"])
def test_a_damaged_estimator_is_one_line_and_stops_no_other_stage(
    name: str, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    assert run("run")[0] == 0
    path = tmp_path / "out/estimators/default" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    status, output, _ = run("compute")
    assert status == 0 and "Estimator:" not in output
    status, _, errors = run("evaluate")
    assert status == 1
    assert errors.splitlines()[-1].startswith(f"error: default/{name} is damaged: ")
    assert errors.splitlines()[-1].endswith(": run train again")
    assert run("train")[0] == 0
    assert path.read_bytes() == content
    assert run("evaluate")[0] == 0


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_there_is_not_is_one_line(
    device: str, run: Callable[..., tuple[int, str, str]]
) -> None:
    status, _, errors = run("generate", "--device", device)
    assert status == 1
    assert errors.splitlines()[-1].startswith(f"error: device '{device}' cannot be used: ")


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"at2-service \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_when_every_row_is_bad_the_reasons_are_told_and_summarised(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    rows: list[Any] = [{**row(0), "query": ""}, {**row(1), "query": " "}, {"context": "x"}]
    data = write_rows(tmp_path / "data.jsonl", rows)
    status, output, errors = run("run", dataset=data, bad_rows="skip", held_out=0)
    assert status == 1
    assert errors.splitlines()[-1] == (
        f"error: {data} has no row that can be used; 2 × 'query' is empty; 1 × no 'query'"
    )
    summary = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    assert len(summary["bad_rows"]) == 3 and summary["training"] is None
    assert "line 1: 'query' is empty" in summary["bad_rows"]
    assert "  line 3: no 'query'" in output.splitlines() or "Rows that cannot be used: 3" in output


def test_when_every_example_is_too_long_the_reasons_are_told_and_summarised(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    long = {"context": "The fox was old. " * 200, "query": "Who?"}
    data = write_rows(tmp_path / "data.jsonl", [long, long])
    status, output, errors = run("generate", dataset=data, bad_rows="skip", held_out=0)
    assert status == 1
    assert errors.splitlines()[-1].startswith("error: no example can be used; 2 × ")
    summary = json.loads((tmp_path / "out/summary.json").read_text("utf-8"))
    first, second = summary["skipped"]
    assert first.startswith("example 0 (line 1): ") and "512" in first
    assert second.startswith("example 1 (line 2): ")
    assert f"  {first}" in output.splitlines()


def test_a_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").symlink_to(model_folder())
    write_rows(tmp_path / "data.jsonl", [row(0), row(1)])
    changes = {"dataset": "~/data.jsonl", "model": "~/model", "out": "~/here", "held_out": 0}
    assert run("generate", **changes)[0] == 0
    assert (tmp_path / "here/generations/00000.json").exists()
    assert not (Path.cwd() / "~").exists()
