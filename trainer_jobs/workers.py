"""Which worker this is, of how many: as the settings say, or whatever started it.

Launchers nest: a SLURM array or an indexed Kubernetes job starts jobs, srun starts tasks in one of
them, torchrun and accelerate start ranks in one task or over all of them. The index counts through
all levels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Worker:
    """One of the processes that share a stage.

    Attributes:
        index: from 0.
        count: how many there are.
        local_index: its place among those on its machine, where that is known.
        local_name: what says so.
        together: whether all are started at once and end together, so that they can wait for each
            other.
    """

    index: int = 0
    count: int = 1
    local_index: int | None = field(default=None, compare=False)
    local_name: str = field(default="", compare=False)
    together: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"job_index={self.index}: not one of {self.count} jobs, from 0")

    def __str__(self) -> str:
        return f"worker {self.index} of {self.count}"


def worker_of(
    job_index: int | None, num_jobs: int | None, environment: Mapping[str, str]
) -> Worker:
    """The worker that the settings name, or else the launchers of this process.

    Read are `RANK`, `WORLD_SIZE` and `LOCAL_RANK` (torchrun, accelerate), `SLURM_PROCID`,
    `SLURM_NTASKS` and `SLURM_LOCALID` (srun), `SLURM_ARRAY_TASK_ID` and those that describe the
    array, and `JOB_COMPLETION_INDEX` (Kubernetes). An indexed Kubernetes job does not tell how many
    workers it has, so that has to be set.

    Raises:
        ValueError: there is no such worker, or something is missing; one line.
    """
    if job_index is not None:
        if num_jobs is None:
            raise ValueError(f"job_index={job_index}: num_jobs is not set")
        return Worker(job_index, num_jobs)
    ranks = _of_torchrun(environment)
    # Ranks over several machines count through these already.
    over_all = ranks is not None and environment.get("GROUP_WORLD_SIZE") != "1"
    tasks = None if over_all else _of_srun(environment)
    inner = _nested(tasks, ranks)
    jobs = _jobs(num_jobs, inner, environment, over_all=over_all)
    if jobs is None:
        if inner is None:
            if num_jobs not in (None, 1):
                raise ValueError(f"num_jobs={num_jobs}: job_index is not set")
            return Worker()
        if num_jobs not in (None, inner.count):
            raise ValueError(f"num_jobs={num_jobs}, but {inner.count} workers were started")
        return inner
    nested = _nested(jobs, inner)
    assert nested is not None
    return nested


def _nested(outer: Worker | None, inner: Worker | None) -> Worker | None:
    """A worker inside another; workers that different jobs start need not be there together."""
    if outer is None or inner is None:
        return outer or inner
    return Worker(
        outer.index * inner.count + inner.index,
        outer.count * inner.count,
        inner.local_index if outer.local_index is None else None,
        inner.local_name,
        (outer.together or outer.count == 1) and inner.together,
    )


def _of_torchrun(environment: Mapping[str, str]) -> Worker | None:
    """A rank of torchrun or accelerate."""
    if not environment.get("RANK") and not environment.get("WORLD_SIZE"):
        return None
    return _rank("RANK", "WORLD_SIZE", "LOCAL_RANK", environment)


def _of_srun(environment: Mapping[str, str]) -> Worker | None:
    """A task of srun; of one task alone there is nothing to say."""
    if not environment.get("SLURM_PROCID") or environment.get("SLURM_NTASKS", "1") == "1":
        return None
    return _rank("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", environment)


def _rank(index: str, count: str, local: str, environment: Mapping[str, str]) -> Worker:
    rank, size = _number(environment, index), _number(environment, count)
    if rank >= size:
        raise ValueError(f"{index}={rank}: not one of {size}, from 0")
    known = bool(environment.get(local))
    local_index = _number(environment, local) if known else None
    return Worker(rank, size, local_index, local, together=True)


def _jobs(
    num_jobs: int | None, inner: Worker | None, environment: Mapping[str, str], *, over_all: bool
) -> Worker | None:
    """The job of an array or an indexed job, inside which there may be workers."""
    each = 1 if inner is None else inner.count
    indexed = bool(environment.get("JOB_COMPLETION_INDEX")) and not over_all
    if not indexed and not environment.get("SLURM_ARRAY_TASK_ID"):
        return None
    if num_jobs is not None and num_jobs % each:
        raise ValueError(f"num_jobs={num_jobs}: each job starts {each} workers")
    of_jobs = None if num_jobs is None else num_jobs // each
    if not indexed:
        return _of_slurm_array(of_jobs, environment)
    index = _number(environment, "JOB_COMPLETION_INDEX")
    if of_jobs is None:
        raise ValueError(
            f"JOB_COMPLETION_INDEX={index}: num_jobs is not set; it is the number of "
            "completions of the job" + (f" times {each}" if each > 1 else "")
        )
    return Worker(index, of_jobs)


def _of_slurm_array(num_jobs: int | None, environment: Mapping[str, str]) -> Worker:
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
