"""What a finished fit leaves behind: the estimator's files and the record of its training."""

import json
from typing import Any

from at2.errors import TrainingError
from at2.estimators import LinearScoreEstimator
from at2.files import short_name
from at2.training.fit import Checkpoint, FitState
from at2.training.shards import sealed, write_file

RECORD_FILE = "training.json"
"""Beside an estimator: its settings, the loss of every step, what was measured on the way."""

CHECKPOINT_FILE = "checkpoint.safetensors"
"""In its place while it is not finished."""


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
    """Write an estimator and its record where the checkpoint is, which then goes.

    The same fit writes the same bytes.

    Args:
        settings: what the weights depend on, as plain values.

    Raises:
        TrainingError: the folder cannot be written to; the checkpoint stays.
    """
    folder = checkpoint.path.parent
    record = {
        "settings": settings,
        "losses": state.losses,
        "held_out": {str(step): found.to_dict() for step, found in state.held_out.items()},
    }
    try:
        estimator.save_folder(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TrainingError(f"cannot write {short_name(folder)}: {reason}") from error

    def body(seal: str) -> bytes:
        return json.dumps({"at2": seal, **record}, indent=1).encode()

    write_file(folder / RECORD_FILE, sealed(checkpoint.settings, body))
    checkpoint.path.unlink(missing_ok=True)
