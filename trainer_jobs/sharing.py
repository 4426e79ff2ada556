"""The stages whose work is dealt out, item by item, to any number of workers.

An item is a shard of examples, or a single example to evaluate. What is made of it does not depend
on who makes it. An engine decides who does: here a worker takes every n-th; `ray_engine` hands
items to whoever is free.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from at2.progress import Progress
from trainer_jobs import evaluation
from trainer_jobs.job import Job
from trainer_jobs.status import Account, stop_if_another_did

logger = logging.getLogger("trainer_jobs")

_SECONDS_BETWEEN_LOOKS = 2.0


@dataclass(frozen=True)
class SharedStage:
    """A stage in items.

    Attributes:
        title: what progress is called.
        items: their numbers.
        size: examples in one.
        do: makes one unless it is there, and counts its examples.
        is_there: whether one is there, as far as a look at its beginning tells.
        finish: what is left to do when all are there; None if nothing is.
    """

    title: str
    items: Callable[[Job], Sequence[int]]
    size: Callable[[Job, int], int]
    do: Callable[[Job, int, Progress], None]
    is_there: Callable[[Job, int], bool]
    finish: Callable[[Job], None] | None = None


def _shards(job: Job) -> Sequence[int]:
    return range(job.trainer.plan.num_shards)


def _examples_in(job: Job, shard: int) -> int:
    return len(job.trainer.plan.examples(shard))


def _generate(job: Job, shard: int, progress: Progress) -> None:
    job.trainer.generate_shard(shard, progress, job.settings.generate_batch_size)


def _compute(job: Job, shard: int, progress: Progress) -> None:
    job.trainer.compute_shard(shard, progress)


SHARED = {
    "generate": SharedStage(
        "Generating completions",
        _shards,
        _examples_in,
        _generate,
        lambda job, shard: job.trainer.run.has_responses(shard),
    ),
    "compute": SharedStage(
        "Computing features and outputs",
        _shards,
        _examples_in,
        _compute,
        lambda job, shard: job.trainer.run.has_features(shard),
    ),
    "evaluate": SharedStage(
        "Evaluating",
        evaluation.examples_to_evaluate,
        lambda job, index: 1,
        evaluation.evaluate_one,
        evaluation.is_evaluated,
        evaluation.write_evaluation,
    ),
}
"""By the name of the stage."""


def share(job: Job, stage: str) -> None:
    """This worker's items of a stage; whoever finds that all are there finishes it."""
    shared = SHARED[stage]
    items = shared.items(job)
    own_items = items[job.worker.index :: job.worker.count]
    total = sum(shared.size(job, item) for item in own_items)
    with Progress(total, shared.title) as progress, Account(job, stage) as account:
        for item in own_items:
            before = progress.num_made
            shared.do(job, item, progress)
            account.add(item, progress.num_made - before)
    finish_if_all_there(job, shared, items)


def finish_if_all_there(job: Job, shared: SharedStage, items: Sequence[int]) -> None:
    """The end of a stage, by whoever finds that nothing is missing; it does no harm twice."""
    if shared.finish is None:
        return
    missing = sum(not shared.is_there(job, item) for item in items)
    if missing:
        logger.info("%s: %d of %d are left to others", shared.title, missing, len(items))
    else:
        shared.finish(job)


def wait_for(job: Job, stage: str) -> None:
    """Wait until other workers have done their part of a stage."""
    shared = SHARED[stage]
    missing = [item for item in shared.items(job) if not shared.is_there(job, item)]
    with Progress(len(missing), f"Waiting for others to {stage}") as progress:
        while missing:
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            stop_if_another_did(job, stage)
            still = [item for item in missing if not shared.is_there(job, item)]
            progress.update(len(missing) - len(still))
            missing = still
