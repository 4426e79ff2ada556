"""What is done of a run, what is missing, by whom, and how long it will take.

Each worker keeps an account of itself beside the others', in `status/`; what is done is seen from
the results themselves. Needs no model.
"""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from at2.errors import TrainingError
from at2.files import files_in, read_whole, write_whole
from at2.progress import duration
from trainer_jobs.job import Job

STAGES = ("generate", "compute", "train", "evaluate")
"""In their order; `train` is done by one worker, the others are shared."""

FOLDER = "status"
"""In the folder of results."""

_SILENT_SECONDS = 600.0
"""Who has not been heard of for longer, and for longer than five items take, may be dead."""

_ITEMS_OF_SILENCE = 5
_SECONDS_BETWEEN_WRITES = 5.0
_MOST_MISSING = 10


class Account:
    """What a worker says of itself: where it is, what it has done of a stage, and when.

    It costs a run nothing if it cannot be written.

    Args:
        job: the worker's.
        stage: the stage.
        name: of the worker; by default its number.
    """

    def __init__(self, job: Job, stage: str, name: str | None = None) -> None:
        worker = job.worker
        self._file = (
            job.folder / FOLDER / f"{stage}-{name or f'{worker.index}-of-{worker.count}'}.json"
        )
        now = time.time()
        self._said: dict[str, Any] = {
            "worker": name or str(worker),
            "host": socket.gethostname(),
            "process": os.getpid(),
            "state": "running",
            "begun": now,
            "heard": now,
            "items": [],
            "examples": 0,
        }
        self._written = 0.0

    def __enter__(self) -> "Account":
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._said["state"] = "done" if kind is None else "stopped"
        self._write()

    def add(self, item: int, examples: int) -> None:
        """Count an item that is there now.

        Args:
            examples: those that were made for it just now.
        """
        self._said["items"].append(item)
        self._said["examples"] += examples
        if time.time() - self._written >= _SECONDS_BETWEEN_WRITES:
            self._write()

    def _write(self) -> None:
        self._written = self._said["heard"] = time.time()
        with suppress(OSError):
            write_whole(self._file, json.dumps(self._said).encode())


@dataclass(frozen=True)
class StageStatus:
    """What is known of a shared stage.

    Attributes:
        stage: its name.
        there, missing: numbers of its items.
        examples: in all items, and in those that are there.
        accounts: of workers, as they said.
    """

    stage: str
    there: Sequence[int]
    missing: Sequence[int]
    examples: tuple[int, int]
    accounts: Sequence[Mapping[str, Any]]

    def lines(self, now: float) -> list[str]:
        """The same for people.

        Args:
            now: seconds since 1970.
        """
        total, done = self.examples
        count = len(self.there) + len(self.missing)
        line = f"{self.stage}: {done} of {total} examples, {len(self.there)} of {count} items"
        if self.missing:
            shown = ", ".join(map(str, self.missing[:_MOST_MISSING]))
            more = len(self.missing) - _MOST_MISSING
            line += f"; missing: {shown}" + (f" and {more} more" if more > 0 else "")
        lines = [line]
        for said in self.accounts:
            ago = duration(max(0.0, now - said["heard"]))
            state = said["state"]
            if state == "running" and not self._alive(said, now):
                state = "perhaps dead"
            lines.append(
                f"  {said['worker']}, {said['host']}: {state}, {len(said['items'])} items, "
                f"last heard of {ago} ago"
            )
        left = self._left(now)
        return lines if left is None else [*lines, f"  time left: {duration(left)}"]

    def _alive(self, said: Mapping[str, Any], now: float) -> bool:
        took = (said["heard"] - said["begun"]) / max(1, len(said["items"]))
        return bool(now - said["heard"] < max(_SILENT_SECONDS, _ITEMS_OF_SILENCE * took))

    def _left(self, now: float) -> float | None:
        """Seconds at the pace of those who are at work; None if nobody is, or nothing is known."""
        rate = 0.0
        for said in self.accounts:
            if said["state"] == "running" and self._alive(said, now) and said["examples"]:
                rate += said["examples"] / max(1e-9, now - said["begun"])
        total, done = self.examples
        return (total - done) / rate if self.missing and rate else None


def stop_if_another_did(job: Job, stage: str) -> None:
    """End a wait that would never end: another worker has stopped since this one began, in this
    stage or on the way to it.

    Raises:
        TrainingError: naming it.
    """
    for reached in STAGES[: STAGES.index(stage) + 1]:
        for said in accounts(job, reached):
            if said["state"] == "stopped" and said["heard"] > job.begun:
                raise TrainingError(
                    f"{reached}: {said['worker']} stopped, on {said['host']}; see what it says, "
                    "and run the same command again"
                )


def accounts(job: Job, stage: str) -> list[Mapping[str, Any]]:
    """What workers said of themselves in a stage; what cannot be read is left out."""
    notes = []
    for path in files_in(job.folder / FOLDER, f"{stage}-*.json"):
        with suppress(OSError, ValueError, TypeError):
            said = json.loads(read_whole(path))
            if {"worker", "host", "state", "begun", "heard", "items", "examples"} <= set(said):
                notes.append(said)
    return notes
