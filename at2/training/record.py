"""What a finished fit leaves behind: the estimator's files and the record of its training."""

import json
import re
from typing import Any

from safetensors import safe_open

from at2.errors import DamagedFileError, InputError, TrainingError
from at2.estimator.linear import PUBLISHED_FILE, SAFETENSORS_FILE, LinearScoreEstimator
from at2.files import Place, exists, local_copy, read_whole, remove, short_name
from at2.fingerprints import checksum
from at2.training.fit import Checkpoint, FitState
from at2.training.shards import check_seal, sealed, write_file

RECORD_FILE = "training.json"
"""Beside an estimator: its settings, the loss of every step, what was measured on the way, and the
checksums of its files. Written last, so an estimator with a whole record is finished."""

CHECKPOINT_FILE = "checkpoint.safetensors"
"""In its place while it is not finished."""


_FILES = (PUBLISHED_FILE, SAFETENSORS_FILE)
_NAME = re.compile(r"\w[\w.-]*")


def check_name(name: str) -> None:
    """Make sure that an estimator's name is a plain folder's, which leads nowhere else.

    Raises:
        InputError: it is not.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"save_name is {name!r}, not letters, digits, `_`, `.` and `-` that begin with one of "
            "the first three",
            param="save_name",
        )


def is_begun(folder: Place) -> bool:
    """Whether there is anything of a fit in a folder that another one would spoil."""
    return any(exists(folder / name) for name in (RECORD_FILE, CHECKPOINT_FILE))


def forget(folder: Place) -> None:
    """Make room for another fit. The estimator's files stay until that one is finished."""
    for name in (RECORD_FILE, CHECKPOINT_FILE):
        remove(folder / name)


def read(folder: Place, settings: str | None = None) -> dict[str, Any]:
    """The record of a finished estimator, checked together with the estimator's files.

    Args:
        folder: of the estimator.
        settings: fingerprint of what the weights depend on; None accepts any.

    Raises:
        DamagedFileError: there is none, or a file is not as it was written.
        TrainingError: it was made with other settings.
    """
    path = folder / RECORD_FILE
    check_seal(path, settings)
    record: dict[str, Any] = json.loads(read_whole(path))
    for name, digest in record["files"].items():
        try:
            actual = checksum(read_whole(folder / name))
        except OSError as error:
            raise DamagedFileError(
                f"{short_name(folder / name)} cannot be read: {error.strerror or error}"
            ) from error
        if actual != digest:
            raise DamagedFileError(
                f"{short_name(folder / name)} is damaged: its checksum does not match"
            )
    return record


def steps_taken(folder: Place) -> int:
    """How far an unfinished fit had come at its last checkpoint: nowhere if that is damaged."""
    path = folder / CHECKPOINT_FILE
    try:
        check_seal(path, None)
    except DamagedFileError:
        return 0
    with local_copy(path) as copy, safe_open(copy, framework="pt") as file:
        return int(file.get_slice("losses").get_shape()[0])


def metrics(state: FitState) -> dict[str, Any]:
    """Held-out examples at the end and before the first step, as an estimator's metadata has them.

    Empty if there were none.
    """
    if not state.held_out:
        return {}
    last = state.held_out[max(state.held_out)].to_dict()
    return {"metrics": {**last, "before_training": state.held_out[0].to_dict()}}


def save(
    estimator: LinearScoreEstimator,
    state: FitState,
    checkpoint: Checkpoint,
    settings: dict[str, Any],
) -> None:
    """Write an estimator and its record in place of the checkpoint.

    The same fit writes the same bytes.

    Args:
        settings: what the weights depend on, as plain values.

    Raises:
        TrainingError: the folder cannot be written to, and the checkpoint stays; or it is another
            fit's by now.
    """
    checkpoint.check_claim()
    folder = checkpoint.path.parent
    try:
        estimator.save_folder(folder)
        files = {name: checksum(read_whole(folder / name)) for name in _FILES}
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrainingError(f"cannot write {short_name(folder)}: {reason}") from error
    record = {
        "settings": settings,
        "files": files,
        "losses": state.losses,
        "held_out": {str(step): measured.to_dict() for step, measured in state.held_out.items()},
    }

    def body(seal: str) -> bytes:
        return json.dumps({"at2": seal, **record}, indent=1).encode()

    write_file(folder / RECORD_FILE, sealed(checkpoint.settings, body))
    remove(checkpoint.path)
