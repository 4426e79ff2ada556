"""Which worker this is, of how many: as the settings say, Kubernetes, or SLURM."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Worker:
    """One of the processes that share a stage.

    Attributes:
        index: from 0.
        count: how many there are.
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"job_index={self.index}: not one of {self.count} jobs, from 0")

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count}"


def worker_of(
    job_index: int | None, num_jobs: int | None, environment: Mapping[str, str]
) -> Worker:
    """What the settings say; what they leave open, the scheduler says.

    An indexed Kubernetes job does not tell how many workers it has, so that has to be set. The
    indices of a SLURM array may begin anywhere and have a step.

    Raises:
        ValueError: there is no such worker, or something is missing; one line.
    """
    if job_index is not None:
        if num_jobs is None:
            raise ValueError(f"job_index={job_index}: num_jobs is not set")
        return Worker(job_index, num_jobs)
    if environment.get("JOB_COMPLETION_INDEX"):
        index = _number(environment, "JOB_COMPLETION_INDEX")
        if num_jobs is None:
            raise ValueError(
                f"JOB_COMPLETION_INDEX={index}: num_jobs is not set; it is the number of "
                "completions of the job"
            )
        return Worker(index, num_jobs)
    if environment.get("SLURM_ARRAY_TASK_ID"):
        return _of_slurm(num_jobs, environment)
    if num_jobs not in (None, 1):
        raise ValueError(f"num_jobs={num_jobs}: job_index is not set")
    return Worker()


def _of_slurm(num_jobs: int | None, environment: Mapping[str, str]) -> Worker:
    task = _number(environment, "SLURM_ARRAY_TASK_ID")
    first = _number(environment, "SLURM_ARRAY_TASK_MIN", 0)
    step = _number(environment, "SLURM_ARRAY_TASK_STEP", 1)
    tasks = _number(environment, "SLURM_ARRAY_TASK_COUNT", num_jobs)
    count = num_jobs or tasks
    # Part of an array that begins at 0 may be submitted again, by the numbers its tasks had, if the
    # user says how many there were.
    first, step = (first, max(1, step)) if count == tasks else (0, 1)
    index, rest = divmod(task - first, step)
    if rest or not 0 <= index < count:
        raise ValueError(
            f"SLURM_ARRAY_TASK_ID={task}: not one of {count} jobs; set job_index and num_jobs"
        )
    return Worker(index, count)


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    value = environment.get(name) or ("" if default is None else str(default))
    if not value.isdecimal():
        raise ValueError(f"{name}={value!r}: not a number from 0")
    return int(value)
