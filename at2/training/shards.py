"""The record of a training run on disk: sealed files, each whole or absent.

Examples are cut into shards of a fixed size. What is in a shard depends on its examples and the
settings only, never on how many workers there are or in which order they ran. A file carries the
SHA-256 of all its bytes and the fingerprint of the settings it was made with; both are checked
when it is read. Knows nothing of models.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from at2.errors import DamagedFileError, InputError, TrainingError
from at2.files import short_name, write_whole

_DIGITS = 64
_HEAD_BYTES = 4096
_CHUNK_BYTES = 2**20
_SEAL = re.compile(rb"sha256:([0-9a-f]{64}) settings:([0-9a-f]*)")


@dataclass(frozen=True)
class ShardPlan:
    """How examples are cut into shards, and shards dealt to workers.

    Attributes:
        num_examples: examples in all.
        shard_size: examples a shard, at least 1; the last one may be shorter.
    """

    num_examples: int
    shard_size: int

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise InputError(f"shard_size is {self.shard_size}, below 1", param="shard_size")

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return -(-self.num_examples // self.shard_size)

    def examples(self, shard: int) -> range:
        """The examples of one shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_examples))

    def for_job(self, job_index: int, num_jobs: int) -> range:
        """The shards of worker `job_index` of `num_jobs`: job_index, job_index + num_jobs, …

        Raises:
            TrainingError: there is no such worker.
        """
        if num_jobs < 1 or not 0 <= job_index < num_jobs:
            raise TrainingError(f"job_index {job_index} is not one of {num_jobs} jobs")
        return range(job_index, self.num_shards, num_jobs)


def sealed(settings: str, build: Callable[[str], bytes]) -> bytes:
    """The contents of a file with its seal.

    Args:
        settings: fingerprint of the settings, hexadecimal digits.
        build: makes the contents around a seal, which has to be in their first bytes, once.
    """
    content = build(f"sha256:{'0' * _DIGITS} settings:{settings}")
    digest = hashlib.sha256(content).hexdigest().encode()
    return content.replace(b"0" * _DIGITS, digest, 1)


def check_seal(path: Path, settings: str | None) -> None:
    """Make sure that a file is as it was written, and belongs to these settings.

    Args:
        settings: their fingerprint; None accepts any.

    Raises:
        DamagedFileError: the file is absent, truncated or altered.
        TrainingError: it was made with other settings.
    """
    name = short_name(path)
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            found = _SEAL.search(head)
            if found is None:
                raise DamagedFileError(f"{name} is damaged: it has no checksum")
            start, end = found.span(1)
            digest = hashlib.sha256(head[:start] + b"0" * _DIGITS + head[end:])
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise DamagedFileError(f"{name} cannot be read: {error.strerror}") from error
    if digest.hexdigest().encode() != found[1]:
        raise DamagedFileError(f"{name} is damaged: its checksum does not match")
    if settings is not None and found[2].decode() != settings:
        raise TrainingError(f"{name} was made with other settings; use another folder")


def settings_of(path: Path) -> str | None:
    """The fingerprint in a file's seal, unchecked; None if there is no seal to read."""
    try:
        with path.open("rb") as file:
            found = _SEAL.search(file.read(_HEAD_BYTES))
    except OSError:
        return None
    return None if found is None else found[2].decode()


def write_file(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """`at2.files.write_whole`, for the files of a training folder.

    Raises:
        TrainingError: the folder cannot be written to, or the disk is full; what was there stays.
    """
    try:
        return write_whole(path, content, replace=replace)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrainingError(f"cannot write {short_name(path)}: {reason}") from error


@dataclass(frozen=True)
class ShardFolder:
    """The shards of one stage.

    Attributes:
        path: the folder.
        suffix: of every file, with its dot.
        settings: fingerprint of the stage's settings.
    """

    path: Path
    suffix: str
    settings: str

    def file(self, shard: int) -> Path:
        """Where a shard is, or will be."""
        return self.path / f"{shard:05d}{self.suffix}"

    def exists(self, shard: int) -> bool:
        """Whether a shard has been written; it may have been damaged since."""
        return self.file(shard).exists()

    def check(self, shard: int) -> None:
        """See `check_seal`."""
        check_seal(self.file(shard), self.settings)

    def write(self, shard: int, build: Callable[[str], bytes]) -> None:
        """Write a shard; see `sealed` and `write_file`."""
        write_file(self.file(shard), sealed(self.settings, build))
