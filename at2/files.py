"""Files that exist whole or not at all, also after a crash or with a full disk.

Knows bytes and paths; nothing of what is in a file.
"""

import contextlib
import errno
import os
import sys
import uuid
from pathlib import Path

if sys.platform != "win32":
    import fcntl


def write_whole(path: Path, content: bytes, *, replace: bool = True) -> bool:
    """Write a file so that it exists complete and durable, or not at all.

    The bytes go to a hidden temporary file in the same folder, which is made if need be; that file
    is synced and then takes the name.

    Args:
        replace: take the place of a file that is there already.

    Returns:
        Whether it was written; False only if it was there and is not to be replaced.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; what was there stays.
    """
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


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of processes that were killed; those of living ones stay."""
    for temporary in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError), temporary.open("rb") as file:
            if _try_lock(file.fileno()):
                temporary.unlink(missing_ok=True)


def short_name(path: Path) -> str:
    """A file and its folder, for messages."""
    return f"{path.parent.name}/{path.name}"
