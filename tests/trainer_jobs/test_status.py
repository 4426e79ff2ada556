"""What the jobs tell of a run: what is done, what is missing, by whom, and the time left."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.jobs import row, write_rows

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_status_tells_what_is_done_and_by_whom(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    status, output, _ = run("status")
    assert status == 0
    assert output.splitlines() == [
        "generate: 0 of 7 examples, 0 of 4 items; missing: 0, 1, 2, 3",
        "compute: 0 of 7 examples, 0 of 4 items; missing: 0, 1, 2, 3",
        "train: estimator 'default', 0 of 6 steps",
        "evaluate: 0 of 2 examples, 0 of 2 items; missing: 5, 6",
    ]
    assert run("generate", "--num-jobs", "2", "--job-index", "1")[0] == 0
    lines = run("status")[1].splitlines()
    assert lines[0] == "generate: 3 of 7 examples, 2 of 4 items; missing: 0, 2"
    assert re.fullmatch(
        rf"  worker 1 of 2, {os.uname().nodename}: done, 2 items, last heard of 0:\d\d ago",
        lines[1],
    )
    # A worker that is at work: two examples in ten seconds, four left.
    path = tmp_path / "out/status/generate-0-of-2.json"
    said = json.loads((tmp_path / "out/status/generate-1-of-2.json").read_text())
    now = time.time()
    busy = {"worker": "worker 0 of 2", "state": "running", "begun": now - 10, "heard": now}
    path.write_text(json.dumps(said | busy | {"examples": 2, "items": [0]}))
    lines = run("status")[1].splitlines()
    assert "worker 0 of 2" in lines[1] and ": running, 1 items" in lines[1]
    assert re.fullmatch(r"  time left: 0:[2-5]\d", lines[3])
    path.write_text(json.dumps(said | busy | {"heard": now - 9_000, "begun": now - 9_010}))
    lines = run("status")[1].splitlines()
    assert re.search(r": perhaps dead, 2 items, last heard of 2:30:\d\d ago$", lines[1])
    assert run("generate")[0] == run("compute")[0] == run("train")[0] == run("evaluate")[0] == 0
    lines = [line for line in run("status")[1].splitlines() if not line.startswith(" ")]
    assert lines == [
        "generate: 7 of 7 examples, 4 of 4 items",
        "compute: 7 of 7 examples, 4 of 4 items",
        "train: estimator 'default' is finished",
        "evaluate: 2 of 2 examples, 2 of 2 items",
    ]


def test_only_what_was_evaluated_with_these_settings_is_done(
    finished: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    done = "evaluate: 2 of 2 examples, 2 of 2 items"
    missing = "evaluate: 0 of 2 examples, 0 of 2 items; missing: 5, 6"
    assert done in run("status")[1]
    for other in ({"evaluate_masks": 7}, {"methods": ["at2"]}, {"evaluate_source_type": "word"}):
        assert missing in run("status", **other)[1]
    damaged = tmp_path / "out/evaluation/default/examples/00006.json"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    assert "1 of 2 items; missing: 6" in run("status")[1]
    # Another estimator of the same name.
    shutil.rmtree(tmp_path / "out/estimators")
    assert missing in run("status")[1]
    assert run("train", num_iterations=4)[0] == 0
    assert missing in run("status")[1]


def test_an_example_that_was_passed_over_is_not_missing_from_the_evaluation(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    long = {**row(2), "context": f"{row(2)['context']} " * 50}
    data = write_rows(tmp_path / "data.jsonl", [row(0), row(1), long, row(3)])
    settings = {"dataset": data, "limit": 2, "shuffle_seed": None, "bad_rows": "skip"}
    assert run("run", **settings)[0] == 0
    assert run("status", **settings)[1].splitlines()[-2] == (
        "evaluate: 1 of 1 examples, 1 of 1 items"
    )


def test_a_damaged_checkpoint_counts_no_step(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    folder = tmp_path / "out/estimators/default"
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"\xff" * 100)
    status, output, _ = run("status")
    assert status == 0
    assert "train: estimator 'default', 0 of 6 steps" in output.splitlines()


def test_a_status_that_finds_no_row_leaves_the_summary_as_it_is(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    assert run("generate")[0] == 0
    summary = (tmp_path / "out/summary.json").read_bytes()
    status, _, errors = run("status", "--where", "query=nobody asks this")
    assert status == 1 and "none would be left to train on" in errors
    assert (tmp_path / "out/summary.json").read_bytes() == summary
