"""How examples are shared out among jobs, as in the published trainer.

The trainer here cuts its work into shards (`at2/training/shards.py`); this is for code written for
the published one's.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from at2.errors import InputError


def get_job_start_and_end(
    num_examples: int,
    job_idx: int,
    num_jobs: int | None = None,
    examples_per_job: int | None = None,
) -> tuple[int, int]:
    """The examples `[start, end)` of one of several jobs.

    Args:
        num_examples: of all jobs.
        job_idx: which one, from 0.
        num_jobs: how many there are, or else
        examples_per_job: how many examples each has.

    Raises:
        InputError: both numbers are given, or neither.
    """
    if (num_jobs is None) == (examples_per_job is None):
        raise InputError("give num_jobs or examples_per_job, one of them")
    if examples_per_job is None:
        assert num_jobs is not None
        examples_per_job = -(-num_examples // num_jobs)
    start = job_idx * examples_per_job
    return start, min(start + examples_per_job, num_examples)


def infer_num_jobs(path: Path) -> int | None:
    """How many jobs of the published trainer wrote a folder, by a file `…0_of_N.…`; None without
    one."""
    for file in path.iterdir():
        if "0_of_" in file.name:
            return int(file.name.split("_of_")[1].split(".")[0])
    return None


def create_registry(size: int, num_jobs: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The job of each example, and the first example of each job."""
    jobs, starts = np.zeros(size, dtype=np.int32), np.zeros(num_jobs, dtype=np.int32)
    for index in range(num_jobs):
        start, end = get_job_start_and_end(size, index, num_jobs)
        jobs[start:end] = index
        starts[index] = start
    return jobs, starts
