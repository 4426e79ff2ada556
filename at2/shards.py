"""The trainer's record on disk: shards of a fixed number of examples, whole or absent.

A shard is written to a temporary file, synced and renamed. Its contents depend on its examples
only, never on how many workers there are or in which order they ran, so any worker can be killed
at any moment and the next run goes on with the shards that are missing.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from at2.errors import TrainingError


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it exists complete and durable, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class ShardPlan:
    """How examples are cut into shards, and shards dealt to workers.

    Attributes:
        num_examples: examples in all.
        shard_size: examples a shard; the last one may be shorter.
    """

    num_examples: int
    shard_size: int

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return -(-self.num_examples // self.shard_size)

    def examples(self, shard: int) -> range:
        """The examples of one shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_examples))

    def for_job(self, job_index: int, num_jobs: int) -> Iterator[int]:
        """The shards of worker `job_index` of `num_jobs`: job_index, job_index + num_jobs, …

        Raises:
            TrainingError: there is no such worker.
        """
        if num_jobs < 1 or not 0 <= job_index < num_jobs:
            raise TrainingError(f"job_index {job_index} is not one of {num_jobs} jobs")
        return iter(range(job_index, self.num_shards, num_jobs))
