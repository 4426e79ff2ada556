"""Which device a worker computes on: a GPU of its own where there are some."""

from collections.abc import Mapping

import torch

from at2.errors import ModelError
from trainer_jobs.workers import Worker

_COUNTS = ("SLURM_GPUS_ON_NODE", "SLURM_GPUS")
_LISTS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS", "CUDA_VISIBLE_DEVICES")
_NOTHING = ("", "-1", "none", "void", "nodevfiles")


def device_of(
    device: str | None, worker: Worker, environment: Mapping[str, str], num_gpus: int | None = None
) -> str | None:
    """The device of a worker.

    Args:
        device: what was asked for: `cuda` is any GPU, None what there is.
        num_gpus: GPUs that can be seen here; by default those that torch sees.

    Returns:
        A name for torch; None for the default one.

    Raises:
        ModelError: a GPU was asked for, by the settings or of the scheduler, and none is found; or
            there are more workers here than GPUs.
    """
    if device not in (None, "cuda"):
        return device
    if num_gpus is None:
        num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_gpus == 0:
        asked = f"device={device}" if device else _asked_of_the_scheduler(environment)
        if asked is None:
            return None
        raise ModelError(
            f"{asked}: a GPU was asked for, but torch {torch.__version__} finds none; "
            "device=cpu goes on without"
        )
    if worker.local_index is None:
        return f"cuda:{worker.index % num_gpus}"
    if worker.local_index < num_gpus:
        return f"cuda:{worker.local_index}"
    if num_gpus == 1 and worker.local_name == "SLURM_LOCALID":
        return "cuda:0"  # with --gpus-per-task a task sees its own only
    raise ModelError(
        f"{worker.local_name}={worker.local_index}: each worker takes a GPU, and there are "
        f"{num_gpus} here"
    )


def _asked_of_the_scheduler(environment: Mapping[str, str]) -> str | None:
    """The variable that says that this process was given GPUs."""
    for names, nothing in ((_COUNTS, (*_NOTHING, "0")), (_LISTS, _NOTHING)):
        for name in names:
            value = environment.get(name, "")
            if value.lower() not in nothing:
                return f"{name}={value}"
    # Kubernetes names those that it gives; `all` is what images say whatever there is.
    given = environment.get("NVIDIA_VISIBLE_DEVICES", "")
    if given.startswith(("GPU-", "MIG-")):
        return f"NVIDIA_VISIBLE_DEVICES={given}"
    return None
