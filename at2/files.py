"""Files that exist whole or not at all, also after a crash or with a full disk.

They are on disk, or in any storage that fsspec knows by URL (`s3://…`, `gs://…`, `hf://…`). Knows
bytes and paths; nothing of what is in a file.
"""

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from upath import UPath

from at2.errors import At2Error, InputError, reason_of

if sys.platform != "win32":
    import fcntl


Place = Path | UPath
"""A file or folder: on disk, or in another storage."""


def place_of(where: str | os.PathLike[str] | UPath) -> Place:
    """The place that a path (`~` is the home folder) or a URL names.

    Raises:
        InputError: nothing is known of such URLs, or a package for them is missing.
    """
    if isinstance(where, UPath):
        return Path(where.path) if where.protocol in ("", "file", "local") else where
    text = os.fspath(where)
    protocol, is_url, rest = text.partition("://")
    if not is_url or os.sep in protocol:
        return Path(text).expanduser()
    if protocol in ("file", "local"):
        return Path(rest)
    try:
        # Other workers write there meanwhile: what a listing said before is no longer true.
        place = UPath(text, use_listings_cache=False)
        _ = place.fs
    except (ValueError, ImportError) as error:
        raise InputError(f"{text}: {reason_of(error)}") from error
    return place


def is_local(place: Place) -> bool:
    """Whether it is a path of this machine."""
    return isinstance(place, Path)


@contextlib.contextmanager
def storage_errors() -> Iterator[None]:
    """Whatever a storage's own library raises becomes an `OSError` of one line."""
    try:
        yield
    except ConnectionError as error:  # one of a network, not of standard output
        raise OSError(errno.EIO, str(error) or repr(error)) from error
    except (OSError, EOFError, At2Error):
        raise
    except Exception as error:
        raise OSError(errno.EIO, reason_of(error)) from error


def exists(place: Place) -> bool:
    """Whether there is a file or folder.

    Raises:
        OSError: the storage does not answer.
    """
    with storage_errors():
        return place.exists()


def read_whole(place: Place) -> bytes:
    """All bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    with storage_errors():
        return place.read_bytes()


def read_start(place: Place, count: int) -> bytes:
    """The first bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    with storage_errors():
        if isinstance(place, Path):
            with place.open("rb") as file:
                return file.read(count)
        content: bytes = place.fs.cat_file(place.path, start=0, end=count)
        return content


def files_in(folder: Place, pattern: str = "*") -> list[Place]:
    """The files of a folder, in order of their names, without those that are hidden.

    Raises:
        OSError: the storage does not answer.
    """
    with storage_errors():
        paths = [p for p in folder.glob(pattern) if not p.name.startswith(".")]
        return sorted(paths, key=lambda p: p.name)


def folders_in(folder: Place) -> list[Place]:
    """The folders of a folder, in order of their names; none if there is no such folder.

    Raises:
        OSError: the storage does not answer.
    """
    with storage_errors():
        if not folder.is_dir():
            return []
        return sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.name)


def remove(place: Place) -> None:
    """Remove a file if it is there."""
    with storage_errors(), contextlib.suppress(FileNotFoundError):
        place.unlink()


@contextlib.contextmanager
def local_copy(place: Place) -> Iterator[Path]:
    """A file on disk with the same bytes: the file itself, or a copy while this lasts.

    Raises:
        OSError: it cannot be read.
    """
    if isinstance(place, Path):
        yield place
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / place.name
        with storage_errors(), place.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        yield copy


def write_whole(path: Place, content: bytes, *, replace: bool = True) -> bool:
    """Write a file so that it exists complete and durable, or not at all.

    On disk the bytes go to a hidden temporary file in the same folder, which is made if need be;
    that file is synced and then takes the name. An object of another storage appears when all of it
    is there.

    Args:
        replace: take the place of a file that is there already.

    Returns:
        Whether it was written; False only if it was there and is not to be replaced.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; what was there stays.
    """
    if not isinstance(path, Path):
        return _put(path, content, replace=replace)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = _write(path, content, replace=replace)
    except FileNotFoundError:  # another process took the temporary file for a leftover
        written = _write(path, content, replace=replace)
    if sys.platform != "win32":  # the name, too, must survive a loss of power
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some mounts cannot
                raise
        finally:
            os.close(folder)
    return written


def _put(path: UPath, content: bytes, *, replace: bool) -> bool:
    with storage_errors():
        if replace:
            path.fs.pipe_file(path.path, content)
            return True
        try:
            path.fs.pipe_file(path.path, content, mode="create")
        except FileExistsError:
            return False
        except (TypeError, ValueError, NotImplementedError):  # a storage that cannot tell
            if path.exists():
                return False
            path.fs.pipe_file(path.path, content)
        return True


def _write(path: Path, content: bytes, *, replace: bool) -> bool:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            _try_lock(file.fileno())  # until it is closed: this file belongs to somebody alive
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            if not replace:
                try:
                    os.link(temporary, path)
                    return True
                except FileExistsError:
                    return False
                except FileNotFoundError:
                    raise
                except OSError:  # a file system without hard links
                    if path.exists():
                        return False
            temporary.replace(path)
            return True
    finally:
        # What failed is told, not that there is nothing to clean up on a disk that takes nothing.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _try_lock(file: int) -> bool:
    """Lock an open file unless another process holds it; False where that cannot be known."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_leftovers(folder: Place) -> None:
    """Remove the temporary files of processes that were killed; those of living ones stay."""
    if not isinstance(folder, Path):
        return
    for temporary in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError), temporary.open("rb") as file:
            if _try_lock(file.fileno()):
                temporary.unlink(missing_ok=True)


def short_name(path: Place) -> str:
    """A file and its folder, for messages."""
    return f"{path.parent.name}/{path.name}"
