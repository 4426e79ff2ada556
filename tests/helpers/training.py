"""A training run on a tiny model, in processes of their own that may be killed on the way.

`Workers` forks each worker from a server that has imported everything but run nothing, so a worker
starts in milliseconds. A worker can end itself with SIGKILL at a line of the library's training
code that is counted from its start: a moment that is the same on every machine.
"""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import at2
from at2 import AT2Trainer
from at2.errors import At2Error
from at2.tasks import SimpleContextAttributionTask
from tests.helpers.models import tiny_model
from tests.helpers.tokenizers import tiny_tokenizer

EXAMPLES = [
    {
        "context": f"The fox was {i} years old. Ada wrote it. " + "The dog is lazy! " * (i % 3),
        "query": "Who wrote?" if i % 2 else "How old?",
    }
    for i in range(10)
]
LONG = {"context": "The fox was old. " * 200, "query": "Who?"}
"""Longer than the model takes."""

HELD_OUT = [2, 7]
SHARD_SIZE = 3
NEW_TOKENS = 6

_TRACED = (
    str(Path(at2.__file__).parent / "training"),
    *(str(Path(at2.__file__).parent / name) for name in ("files.py", "estimator/linear.py")),
)
_REFUSED = 3
_NOBODY = 65534


def make_model() -> Any:
    """A Llama whose attention is far from uniform and that never ends a response."""
    model = tiny_model("llama", vocab_size=len(tiny_tokenizer("byte_level")), eos_token_id=None)
    model.name_or_path = "tiny-llama"
    return model


def task_from_example(
    example: Mapping[str, str], model: Any, tokenizer: Any
) -> SimpleContextAttributionTask:
    """A task with single tokens as sources and a short response."""
    return SimpleContextAttributionTask(
        context=example["context"],
        query=example["query"],
        model=model,
        tokenizer=tokenizer,
        source_type="token",
        generate_kwargs={"max_new_tokens": NEW_TOKENS, "do_sample": False},
    )


def make_trainer(folder: Path, model: Any, **settings: Any) -> AT2Trainer:
    """A trainer of `EXAMPLES` whose targets are single tokens, unless told otherwise."""
    wanted = {"dataset": EXAMPLES, "split_target_by": "token", "num_masks": 8}
    wanted |= {"shard_size": SHARD_SIZE} | settings
    dataset = wanted.pop("dataset")
    return AT2Trainer(
        folder, dataset, model, tiny_tokenizer("byte_level"), task_from_example, **wanted
    )


def run_stages(trainer: AT2Trainer) -> AT2Trainer:
    """Do the first two stages."""
    trainer.generate()
    trainer.compute_features_and_outputs()
    return trainer


def folder_contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@dataclass(frozen=True)
class WorkerTask:
    """One worker's part of a stage.

    Attributes:
        folder: where the run is.
        stage: "generate", "compute" or "train".
        job_index, num_jobs: which worker it is, of how many.
        die_at_line: the line of training code, counted from the start, at which it is killed.
        max_file_bytes: no file may grow larger, as on a full disk.
        unprivileged: as a user to whom the permissions of files apply.
        settings: of the trainer.
    """

    folder: Path
    stage: str
    job_index: int = 0
    num_jobs: int = 1
    die_at_line: int | None = None
    max_file_bytes: int | None = None
    unprivileged: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WorkerOutcome:
    """How a worker ended.

    Attributes:
        killed: by SIGKILL.
        refused: the library's error message if it raised one.
        lines: lines of training code that it ran, if it came to its end.
    """

    killed: bool
    refused: str | None
    lines: int


class _LineCounter:
    """Counts executed lines of the training code; kills its own process at one of them."""

    def __init__(self, die_at: int | None) -> None:
        self.count = 0
        self._die_at = die_at

    def frame(self, frame: FrameType, event: str, arg: Any) -> Any:
        return self.line if frame.f_code.co_filename.startswith(_TRACED) else None

    def line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self._die_at:
                os.kill(os.getpid(), signal.SIGKILL)
        return self.line


def _run_task(work: WorkerTask, report: Connection) -> None:
    torch.set_num_threads(1)
    folder = work.folder
    if work.unprivileged:
        os.chdir(folder.parent)  # what is above may be closed to that user
        folder = Path(folder.name)
    trainer = make_trainer(folder, make_model(), **work.settings)
    if work.unprivileged and os.geteuid() == 0:
        # That user need not be able to read what transformers imports for its first prompt.
        _ = task_from_example(EXAMPLES[0], trainer.model, trainer.tokenizer).input_ids
        os.seteuid(_NOBODY)
    if work.max_file_bytes is not None:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (work.max_file_bytes, hard))
    with open(os.devnull, "w") as nowhere:
        sys.stdout = nowhere
        counter = _LineCounter(work.die_at_line)
        sys.settrace(counter.frame)
        try:
            if work.stage == "generate":
                trainer.generate(work.job_index, work.num_jobs, batch_size=2)
            elif work.stage == "compute":
                trainer.compute_features_and_outputs(work.job_index, work.num_jobs)
            else:
                trainer.train(
                    num_iterations=20,
                    batch_size=4,
                    print_every=5,
                    checkpoint_every=3,
                    held_out_indices=[0, 5],
                    save_name="default",
                )
        except At2Error as error:
            sys.settrace(None)
            report.send(WorkerOutcome(killed=False, refused=str(error), lines=counter.count))
            sys.exit(_REFUSED)
        sys.settrace(None)
        report.send(WorkerOutcome(killed=False, refused=None, lines=counter.count))


class Workers:
    """Starts workers and waits for them."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([__name__])

    def run(self, *work: WorkerTask) -> list[WorkerOutcome]:
        """Run some workers side by side until all have ended.

        Raises:
            RuntimeError: one ended in another way than done, refused or killed.
        """
        started = []
        for each in work:
            receiving, sending = self._context.Pipe(duplex=False)
            process = self._context.Process(target=_run_task, args=(each, sending))
            process.start()
            sending.close()
            started.append((process, receiving))
        ended = []
        for process, receiving in started:
            try:
                ended.append(receiving.recv())
            except EOFError:
                process.join()
                if process.exitcode != -signal.SIGKILL:
                    raise RuntimeError(f"a worker ended with {process.exitcode}") from None
                ended.append(WorkerOutcome(killed=True, refused=None, lines=0))
            process.join()
        return ended
