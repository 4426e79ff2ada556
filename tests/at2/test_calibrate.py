"""An estimator from a few prompts: the same machinery as a full training, with settings for few."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from at2.errors import InputError
from at2.estimator.linear import load_estimator
from at2.training.calibrate import calibrate
from at2.training.heldout import HeldOut
from service import cli
from service.calibrate import read_prompts
from tests.helpers.tokenizers import tiny_tokenizer
from tests.helpers.training import EXAMPLES, folder_contents, make_model

PROMPTS = EXAMPLES[:8]


def run(folder: Path, prompts: list[dict[str, str]] = PROMPTS):  # type: ignore[no-untyped-def]
    return calibrate(
        make_model(),
        tiny_tokenizer("byte_level"),
        prompts,
        folder,
        num_masks=8,
        max_new_tokens=12,
        source_type="word",
    )


def test_the_estimator_is_saved_for_the_model_with_what_was_measured(tmp_path: Path) -> None:
    found = run(tmp_path)

    saved = load_estimator(found.folder)
    assert saved.identity is not None and saved.identity["model"] == "tiny-llama"
    weights = saved.head_weights.numpy()
    assert (weights >= 0).all() and np.abs(weights).sum() == pytest.approx(1, abs=1e-5)
    assert saved.extras["calibration"] == {
        "held_out": found.held_out.to_dict(),
        "average_attention": found.average_attention.to_dict(),
    }
    assert isinstance(found.held_out, HeldOut) and found.held_out.examples == 2
    assert saved.extras["training"]["examples"] == 8  # what is saved has seen every prompt


def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path)
    before = folder_contents(tmp_path)

    again = run(tmp_path)

    assert folder_contents(tmp_path) == before
    assert again.held_out == first.held_out


def test_more_prompts_go_on_from_what_is_there(tmp_path: Path) -> None:
    run(tmp_path / "grown")
    before = folder_contents(tmp_path / "grown/features_and_outputs")

    grown = run(tmp_path / "grown", EXAMPLES[:9])

    assert grown.estimator.extras["training"]["examples"] == 9
    assert before.items() <= folder_contents(tmp_path / "grown/features_and_outputs").items()
    fresh = run(tmp_path / "fresh", EXAMPLES[:9])
    assert folder_contents(grown.folder) == folder_contents(fresh.folder)


def test_the_tutorials_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "tutorial-train.md").read_text("utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    make_model().save_pretrained("tiny")
    tiny_tokenizer("byte_level").save_pretrained("tiny")
    lines = "\n".join(map(json.dumps, PROMPTS))
    Path("prompts.jsonl").write_text(lines, "utf-8")

    assert "Qwen/Qwen3-0.6B" in code
    exec(code.replace("Qwen/Qwen3-0.6B", "tiny"), {})

    assert capsys.readouterr().out.strip().endswith("calibrated/estimators/calibrated")
    assert load_estimator("calibrated/estimators/calibrated").identity is not None


def test_too_few_prompts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 prompts are too few"):
        run(tmp_path / "run", PROMPTS[:3])
    assert not (tmp_path / "run").exists()


def test_prompts_are_read_from_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    rows = [{"context": "Käse.\u2028Brot.", "query": "Was?", "more": 1}]
    path.write_text(
        "\n".join(["", *(json.dumps(row, ensure_ascii=False) for row in rows), ""]), "utf-8"
    )

    assert read_prompts(path) == [{"context": "Käse.\u2028Brot.", "query": "Was?"}]


def test_prompts_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    prompt = {"context": "Zoë wrote it.", "query": "Who?"}
    path.write_text(json.dumps(prompt, ensure_ascii=False) + "\n", "utf-8-sig")
    assert read_prompts(path) == [prompt]


@pytest.mark.parametrize("flag", ["--masks", "--max-new-tokens"])
def test_a_count_of_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"context": "x", "query": "y"}')

    assert cli.main(["calibrate", str(path), "--out", str(tmp_path / "out"), flag, "0"]) == 2

    error = capsys.readouterr().err
    assert flag in error and ">= 1" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: not JSON"),
        (b'\n{"context": "x"}', "line 2: no text in 'query'"),
        (b'["x"]', "line 1: no text in 'context'"),
        (b'{"context": "x", "query": 3}', "line 1: no text in 'query'"),
        (b"\xff", "not UTF-8 text"),
        (b'{"context": "x", "query": "y"}', "1 prompts are too few"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(content)

    assert cli.main(["calibrate", str(path), "--out", str(tmp_path / "out")]) == 1

    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and error.startswith("at2: ")
    assert not (tmp_path / "out").exists()
