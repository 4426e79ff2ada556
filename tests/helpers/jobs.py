"""Runs of the jobs on a tiny model with random weights, in a folder as a checkpoint is."""

import atexit
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.helpers.fork_server import ForkedProcess
from tests.helpers.tokenizers import tiny_tokenizer
from tests.helpers.training import make_model

ROOT = Path(__file__).parents[2]

SMALL: dict[str, Any] = {
    "limit": 5,
    "held_out": 2,
    "shuffle_seed": 7,
    "max_new_tokens": 6,
    "split_target_by": "token",
    "shard_size": 2,
    "num_masks": 4,
    "num_iterations": 6,
    "print_every": 3,
    "methods": ["at2", "average_attention", "random"],
    "evaluate_masks": 6,
    "evaluate_top_k": [1],
}
"""Settings with which all stages take seconds."""

_LAUNCHERS = ("AT2_", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_", "JOB_COMPLETION")


def row(number: int) -> dict[str, Any]:
    """An example."""
    return {
        "context": f"The fox was {number} years old. Ada wrote it. The dog is lazy!",
        "query": "Who wrote?" if number % 2 else "How old?",
    }


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def model_folder() -> str:
    """A checkpoint of the tiny model."""
    folder = _folder() / "tiny-llama"
    make_model().save_pretrained(folder)
    tiny_tokenizer("byte_level").save_pretrained(folder)
    return str(folder)


@cache
def data_file(count: int = 12) -> str:
    """A data set of some rows; of more rows, the first are the same."""
    return write_rows(_folder() / f"{count}.jsonl", [row(number) for number in range(count)])


def write_rows(path: Path, rows: list[Any]) -> str:
    """JSON lines."""
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), "utf-8")
    return str(path)


def write_config(path: Path, out: Any, **changes: Any) -> str:
    """A file of `SMALL` settings; None leaves one out."""
    values = SMALL | {"model": model_folder(), "dataset": data_file(), "out": str(out)} | changes
    lines = [
        f"{name} = {json.dumps(value)}\n" for name, value in values.items() if value is not None
    ]
    path.write_text("".join(lines), "utf-8")
    return str(path)


def results(out: Path) -> dict[str, bytes]:
    """Everything that has to be the same however a run went."""
    kept = ("generations/", "features_and_outputs/", "estimators/")
    found = {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if name.startswith(kept)}


def fork(*arguments: str, **variables: str) -> ForkedProcess:
    """A command in a process of its own, as `start` has it, that begins with the libraries
    imported."""
    return ForkedProcess(("trainer_jobs", *arguments), _environment(variables))


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """One thread, no launcher, no hub."""
    clean = {name: v for name, v in os.environ.items() if not name.startswith(_LAUNCHERS)}
    fixed = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return clean | fixed | dict(variables)


def start(
    *arguments: str, module: str = "trainer_jobs", **variables: str
) -> "subprocess.Popen[str]":
    """A command in a process of its own, with one thread, that no launcher knows of.

    Args:
        arguments: of the command.
        module: what is run.
        variables: of its environment.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=_environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
