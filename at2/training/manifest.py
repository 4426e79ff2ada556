"""What the files of a folder depend on, written beside them, so that no two settings mix."""

import json
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from at2.errors import DamagedFileError, TrainingError
from at2.files import Place, exists, files_in, read_whole
from at2.fingerprints import DIGITS, canonical, fingerprint
from at2.training.shards import check_seal, sealed, settings_of, write_file

logger = logging.getLogger(__name__)

FILE = "manifest.json"
"""Name of the manifest in its folder."""


def differences(recorded: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> str:
    """Which settings differ and how, in one line; empty if none does."""
    changes = []
    for key in sorted({*recorded, *wanted}):
        if isinstance(recorded.get(key), Mapping) and isinstance(wanted.get(key), Mapping):
            changes.append(differences(recorded[key], wanted[key], f"{prefix}{key}."))
            continue
        before, now = ([side[key]] if key in side else [] for side in (recorded, wanted))
        if canonical(before) != canonical(now):
            changes.append(f"{prefix}{key} is {_shown(now)}, but was {_shown(before)}")
    return "; ".join(filter(None, changes))


def _shown(value: list[Any]) -> str:
    return repr(value[0]) if value else "not set"


def claim(
    folder: Place,
    settings: Mapping[str, Any],
    environment: Mapping[str, str] | None,
    name: str | None = None,
    *,
    anew: bool = False,
) -> str:
    """Take a folder for these settings, or make sure that it was made with the same ones.

    Args:
        settings: plain values that the bytes of the results depend on.
        environment: versions, batch sizes and the like, which results may depend on in their last
            digits: recorded, and said when they differ. None if nothing is to be made there.
        name: of the folder in messages; by default its last part.
        anew: take it whatever it was claimed for, since nothing was made there.

    Returns:
        The settings' fingerprint.

    Raises:
        TrainingError: the folder was made with other settings; the message names those that
            differ, unless the manifest is gone. Or it cannot be written to.
    """
    path = folder / FILE
    name = name or folder.name
    settings = json.loads(json.dumps(settings))
    digest = fingerprint(settings)
    before = None if anew else _read(path)
    if before is None:
        # Every other file carries the fingerprint of its settings, too.
        for other in files_in(folder):
            its = None if other.name == FILE else settings_of(other)
            if its is not None and its[:DIGITS] != digest:
                raise TrainingError(
                    f"{name} was made with other settings, and its {FILE} is missing or "
                    "damaged: use another folder"
                )
        if environment is None:
            return digest
        body = {"settings": settings, "environment": dict(environment)}
        # Another worker may be faster, even one with other settings.
        content = sealed(digest, partial(_to_bytes, body))
        if write_file(path, content, replace=exists(path)):
            return digest
        before = _read(path) or body
    different = differences(before["settings"], settings)
    if different:
        raise TrainingError(f"{name} was made with other settings: {different}")
    if environment is None:
        return digest
    different = differences(before["environment"], environment)
    if different:
        logger.warning("%s was begun in another environment: %s", name, different)
    return digest


def _to_bytes(body: Mapping[str, Any], seal: str) -> bytes:
    return json.dumps({"at2": seal, **body}, indent=2, ensure_ascii=False).encode("utf-8")


def recorded(folder: Place) -> dict[str, Any] | None:
    """The settings that a folder was made with; None if it has no manifest.

    Raises:
        DamagedFileError: it is damaged.
    """
    path = folder / FILE
    if not exists(path):
        return None
    check_seal(path, None)
    settings: dict[str, Any] = json.loads(read_whole(path))["settings"]
    return settings


def _read(path: Place) -> dict[str, Any] | None:
    """The manifest; None if there is none, or only a damaged one."""
    if not exists(path):
        return None
    try:
        check_seal(path, None)
    except DamagedFileError as error:
        logger.warning("%s: writing it again", error)
        return None
    manifest: dict[str, Any] = json.loads(read_whole(path))
    return manifest
