"""The record of a training run on disk: sealed files, each whole or absent.

Examples are cut into shards of a fixed size. What is in a shard depends on its examples and the
settings only, never on how many workers there are or in which order they ran. A file carries the
SHA-256 of all its bytes and a fingerprint of what it was made of: that of the settings, followed by
that of its own examples. All are checked when it is read. Knows nothing of models.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from at2.errors import DamagedFileError, InputError, TrainingError, check_count
from at2.files import (
    Place,
    exists,
    is_local,
    local_copy,
    read_start,
    short_name,
    storage_errors,
    write_whole,
)
from at2.fingerprints import DIGITS

logger = logging.getLogger(__name__)

SHARD_SIZE = 16
"""Examples a shard: small enough to lose little when killed, large enough to keep files few."""

_SEAL_DIGITS = 64
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
        check_count(self.shard_size, "shard_size")

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return -(-self.num_examples // self.shard_size)

    def examples(self, shard: int) -> range:
        """The examples of one shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_examples))

    def count(self, shards: Iterable[int]) -> int:
        """The examples in some shards."""
        return sum(len(self.examples(shard)) for shard in shards)

    def check(self, examples: Iterable[int], param: str) -> list[int]:
        """The numbers of some examples.

        Raises:
            InputError: there is no such example.
        """
        indices = [int(example) for example in examples]
        for example in indices:
            if not 0 <= example < self.num_examples:
                raise InputError(
                    f"example {example} is not one of {self.num_examples}, counted from 0",
                    param=param,
                )
        return indices

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
    content = build(f"sha256:{'0' * _SEAL_DIGITS} settings:{settings}")
    digest = hashlib.sha256(content).hexdigest().encode()
    return content.replace(b"0" * _SEAL_DIGITS, digest, 1)


def check_seal(path: Place, settings: str | None) -> None:
    """Make sure that a file is as it was written, and belongs to these settings.

    Args:
        settings: their fingerprint, perhaps with that of the examples; None accepts any.

    Raises:
        DamagedFileError: the file is absent, truncated or altered, or of other examples.
        TrainingError: it was made with other settings.
    """
    name = short_name(path)
    try:
        with storage_errors(), path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            seal = _SEAL.search(head)
            if seal is None:
                raise DamagedFileError(f"{name} is damaged: it has no checksum")
            start, end = seal.span(1)
            digest = hashlib.sha256(head[:start] + b"0" * _SEAL_DIGITS + head[end:])
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise DamagedFileError(f"{name} cannot be read: {error.strerror or error}") from error
    if digest.hexdigest().encode() != seal[1]:
        raise DamagedFileError(f"{name} is damaged: its checksum does not match")
    _check_settings(name, seal[2].decode(), settings)


def _check_settings(name: str, recorded: str, settings: str | None) -> None:
    if settings is None or recorded.startswith(settings):
        return
    if recorded[:DIGITS] != settings[:DIGITS]:
        raise TrainingError(f"{name} was made with other settings; use another folder")
    raise DamagedFileError(f"{name} was made of other examples")


def settings_of(path: Place) -> str | None:
    """The fingerprint in a file's seal, unchecked; None if there is no seal to read."""
    try:
        seal = _SEAL.search(read_start(path, _HEAD_BYTES))
    except OSError:
        return None
    return None if seal is None else seal[2].decode()


def write_file(path: Place, content: bytes, *, replace: bool = True) -> bool:
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
        made_of: fingerprint of what else a shard is made of, by its number.
    """

    path: Place
    suffix: str
    settings: str
    made_of: Callable[[int], str] = lambda shard: ""

    def file(self, shard: int) -> Place:
        """Where a shard is, or will be."""
        return self.path / f"{shard:05d}{self.suffix}"

    def exists(self, shard: int) -> bool:
        """Whether a shard has been written; it may have been damaged since.

        Raises:
            TrainingError: the storage does not answer.
        """
        try:
            return exists(self.file(shard))
        except OSError as error:
            reason = error.strerror or str(error)
            raise TrainingError(f"cannot read {short_name(self.file(shard))}: {reason}") from error

    def has(self, shard: int) -> bool:
        """Whether a shard is there and of these examples, as far as its beginning tells."""
        recorded = settings_of(self.file(shard))
        return recorded is not None and recorded.startswith(self.settings + self.made_of(shard))

    def check(self, shard: int) -> None:
        """See `check_seal`."""
        check_seal(self.file(shard), self.settings + self.made_of(shard))

    def is_whole(self, shard: int) -> bool:
        """Whether a shard is there as it has to be; says so if it has to be made again.

        Of what is not on this machine only the beginning is read: other storages write an object
        whole or not at all.

        Raises:
            TrainingError: it was made with other settings.
        """
        if not self.exists(shard):
            return False
        path = self.file(shard)
        try:
            if is_local(path):
                self.check(shard)
            else:
                recorded = settings_of(path)
                if recorded is None:
                    raise DamagedFileError(f"{short_name(path)} is damaged: it has no checksum")
                _check_settings(short_name(path), recorded, self.settings + self.made_of(shard))
        except DamagedFileError as error:
            logger.warning("%s: making it again", error)
            return False
        return True

    def write(self, shard: int, build: Callable[[str], bytes]) -> None:
        """Write a shard; see `sealed` and `write_file`."""
        write_file(self.file(shard), sealed(self.settings + self.made_of(shard), build))

    @contextmanager
    def checked_files(self, shards: range, again: str) -> Iterator[list[Path]]:
        """The files of shards, whole, on this machine, while this lasts.

        Args:
            again: the stage that makes a damaged one again.

        Raises:
            TrainingError: some are missing or damaged.
        """
        missing = sum(not self.exists(shard) for shard in shards)
        if missing:
            raise TrainingError(
                f"{missing} of {len(shards)} shards are not computed yet: run {again}() first"
            )
        with ExitStack() as copies:
            paths = []
            for shard in shards:
                try:
                    path = copies.enter_context(local_copy(self.file(shard)))
                    check_seal(path, self.settings + self.made_of(shard))
                except (DamagedFileError, OSError) as error:
                    name = short_name(self.file(shard))
                    reason = str(error).replace(short_name(path), name)
                    raise DamagedFileError(f"{reason}: run {again}() again") from error
                paths.append(path)
            yield paths
