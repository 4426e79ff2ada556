"""What leaves the folder of results: the estimator for the hub, and figures for TensorBoard."""

import logging
import time
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from at2.errors import InputError, TrainingError, reason_of
from at2.files import files_in, read_whole
from at2.training import record
from at2.training.fit import Report
from trainer_jobs.job import Job
from trainer_jobs.settings import JobSettings

logger = logging.getLogger("trainer_jobs")

_NOT_UPLOADED = (record.CHECKPOINT_FILE,)


def upload(job: Job) -> None:
    """Upload the estimator's folder with its card, if that is asked for.

    What is there already is not uploaded again.

    Raises:
        TrainingError: the hub refuses it or cannot be reached; the estimator stays as it is.
    """
    repository = job.settings.push_to_hub
    if repository is None:
        return
    files = [file for file in files_in(job.estimator_folder) if file.name not in _NOT_UPLOADED]
    added = [
        CommitOperationAdd(path_in_repo=file.name, path_or_fileobj=read_whole(file))
        for file in files
    ]
    try:
        api = HfApi(library_name="at2-service")
        made = api.create_repo(repository, repo_type="model", exist_ok=True)
        api.create_commit(
            made.repo_id,
            added,
            commit_message=f"Score estimator {job.settings.save_name}",
            repo_type="model",
        )
    except Exception as error:  # a network and another's service fail in too many ways to list
        raise TrainingError(
            f"cannot upload the estimator to {repository}: {reason_of(error)}; it is in "
            f"{job.estimator_folder}, and the same command tries again"
        ) from error
    logger.info("uploaded the estimator to %s", made.repo_id)
    print(f"Uploaded estimator to {made}")


def check(settings: JobSettings) -> None:
    """Make sure, before hours of work, that what is asked for can be done.

    Raises:
        InputError: TensorBoard is not installed, or the name of the repository is none.
    """
    if settings.report_to == "tensorboard" and find_spec("tensorboard") is None:
        raise InputError(
            "report_to=tensorboard: the package tensorboard is not installed: "
            "pip install 'at2-service[tensorboard]'",
            param="report_to",
        )
    if settings.push_to_hub is not None:
        try:
            validate_repo_id(settings.push_to_hub)
        except HFValidationError as error:
            raise InputError(f"push_to_hub: {reason_of(error)}", param="push_to_hub") from error


def reporter(job: Job) -> Report | None:
    """What gets the figures of every step of training, if that is asked for."""
    return None if job.settings.report_to is None else _Board(job)


class _Board:
    """Writes figures of steps for TensorBoard; those of steps taken again replace the old ones."""

    def __init__(self, job: Job) -> None:
        self._folder = str(job.folder / "tensorboard" / job.settings.save_name)
        self._last = job.settings.num_iterations
        self._writer: Any = None
        self._begun = self._first = 0.0

    def __call__(self, steps: int, figures: Mapping[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=steps)
            self._begun, self._first = time.monotonic(), steps
        elif (seconds := time.monotonic() - self._begun) > 0:
            figures = {**figures, "steps_per_second": (steps - self._first) / seconds}
        for name, value in figures.items():
            tag = name if "/" in name else f"train/{name}"
            self._writer.add_scalar(tag, value, steps)
        if steps == self._last:
            self._writer.close()
