"""What is in examples/ runs as it is, and prints or shows what the walk-throughs show."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from at2 import AT2ScoreEstimator
from at2.tasks import SimpleThoughtAttributionTask

EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [pytest.mark.default_model, pytest.mark.usefixtures("default_pair_by_name")]
TABLE = r"^ +Score  Source\n0 +-?\d\.\d{3}  \S"


def run(
    name: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> tuple[dict[str, Any], str]:
    """The variables that a script leaves, and what it printed."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("NO_COLOR", raising=False)
    variables = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return variables, capsys.readouterr().out


def test_every_example_is_run_here() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"getting_started", "train_at2", "multi_document", "thought_attribution"}


def test_the_notebook_shows_what_its_lines_give() -> None:
    notebook = json.loads((EXAMPLES / "attribute.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    lines = ["".join(cell["source"]) for cell in cells]
    assert len("\n".join(lines).splitlines()) == 5
    variables: dict[str, Any] = {}
    exec("\n".join(lines[:3]), variables)
    result = variables["result"]
    shown = [cell["outputs"][0]["data"] for cell in cells[3:]]
    assert "".join(shown[0]["text/plain"]).splitlines()[0] == result[0].text
    assert all(attribution.text in "".join(shown[0]["text/html"]) for attribution in result)
    for line in lines[3:]:
        eval(line, variables)
    assert "image/png" in shown[1]


def test_getting_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables, printed = run("getting_started", tmp_path, monkeypatch, capsys)
    task = variables["task"]
    assert printed.startswith(task.generation + "\nTotal sources: 5\nSource #0: The town")
    assert f"\x1b[36m[(0, {task.statements[0][1]})]\x1b[0m" in printed
    assert re.search(TABLE, printed, re.MULTILINE)
    assert "(5,) float32" in printed
    assert "reading room" in (tmp_path / "attribution.html").read_text(encoding="utf-8")


def test_train_at2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables, printed = run("train_at2", tmp_path, monkeypatch, capsys)
    assert "### Generated response ###\n" in printed and "Total sources: " in printed
    assert re.search(r"^Training on \d+ examples of 4$", printed, re.MULTILINE)
    steps = re.findall(r"^Step (\d+): loss=(-?[\d.]+)", printed, re.MULTILINE)
    assert [int(step) for step, _ in steps] == [0, *range(99, 1000, 100)]
    assert float(steps[-1][1]) < float(steps[0][1]) < 0
    assert "Saved estimator to outputs/test_context_smollm2/estimators/default" in printed
    assert "Computing attribution scores for:\n " in printed
    assert re.search(TABLE, printed, re.MULTILINE)
    folder = tmp_path / "outputs" / "test_context_smollm2" / "estimators" / "default"
    estimator = AT2ScoreEstimator.load(folder / "score_estimator.pt")
    assert estimator.head_weights.abs().sum().item() == pytest.approx(1, abs=1e-5)
    assert variables["attributor"].score_estimator.identity["model"] == "SmolLM2-135M-Instruct"


def test_multi_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, printed = run("multi_document", tmp_path, monkeypatch, capsys)
    assert "Context: The pool opens at seven." in printed
    assert re.search(TABLE, printed, re.MULTILINE)
    assert re.search(r"^1 doc-\d \(\d+, \d+\) \S", printed, re.MULTILINE)
    assert len(re.findall(r"^[123] -?\d\.\d{4} [SHM]", printed, re.MULTILINE)) == 3


def test_thought_attribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variables, printed = run("thought_attribution", tmp_path, monkeypatch, capsys)
    task = variables["task"]
    assert isinstance(task, SimpleThoughtAttributionTask) and task.num_sources == 3
    assert task.response in printed and task.thoughts in printed
    assert "\x1b[36m[(0, 27)]\x1b[0mThe train arrives at 12:15." in printed
    assert re.search(TABLE, printed, re.MULTILINE)
    assert "\x1b[48;2;255;255;0m" in printed
