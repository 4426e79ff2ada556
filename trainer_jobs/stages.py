"""The stages of a run, one after the other or each by itself, on the library's `AT2Trainer`.

What a stage has finished is on disk before it ends, so everything here can be stopped and started
again.
"""

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any

from at2.errors import (
    At2Error,
    DamagedFileError,
    EstimatorError,
    InputError,
    NothingToUseError,
    is_out_of_memory,
)
from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.files import exists, place_of
from at2.printable import printable
from at2.progress import Progress
from at2.training import record
from at2.training.fit import LOSSES
from trainer_jobs import evaluation, logs, publish, ray_engine
from trainer_jobs.devices import device_of
from trainer_jobs.job import Job
from trainer_jobs.measure import measured
from trainer_jobs.plots import can_plot, plot_losses
from trainer_jobs.settings import JobSettings
from trainer_jobs.sharing import SHARED, share, wait_for
from trainer_jobs.status import STAGES, Account, StageStatus, accounts, stop_if_another_did
from trainer_jobs.summary import Summary, record_stage, stage_costs
from trainer_jobs.workers import Worker

logger = logging.getLogger("trainer_jobs")

LOSS_CURVE = "loss.png"
"""Beside an estimator."""

_MB = 1_000_000
_FAILED, _BAD_SETTINGS = 1, 2
_SECONDS_BETWEEN_LOOKS = 2.0


def train(job: Job) -> None:
    """The estimator, and its loss curve."""
    settings = job.settings
    limit = settings.memory_limit_mb
    if not job.with_model:
        job.check_features()
    job.trainer.train(
        LinearScoreEstimator(job.trainer.feature_extractor, non_negative=settings.non_negative),
        num_iterations=settings.num_iterations,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        loss_fn=LOSSES[settings.loss],
        max_grad_norm=settings.max_grad_norm,
        sampling_method=settings.sampling_method,
        print_every=settings.print_every,
        save_name=settings.save_name,
        held_out_indices=job.examples.held_out,
        memory_limit=None if limit is None else limit * _MB,
        checkpoint_every=settings.checkpoint_every,
        device=_training_device(job),
        report=publish.reporter(job),
    )
    if can_plot():
        training = record.read(job.estimator_folder)
        plot_losses(training["losses"], training["held_out"], job.estimator_folder / LOSS_CURVE)
    else:
        logger.warning("no %s: matplotlib is not installed", LOSS_CURVE)
    publish.upload(job)


def _training_device(job: Job) -> str | None:
    """The device to train on: the model's if it is loaded; with Ray, what this process has."""
    if job.with_model or job.settings.engine == "ray":
        return None
    return device_of(job.settings.device, job.worker, os.environ)


def _wait_for_the_estimator(job: Job) -> None:
    with Progress(1, "Waiting for worker 0 to train"):
        while not _is_trained(job):
            stop_if_another_did(job, "train")
            time.sleep(_SECONDS_BETWEEN_LOOKS)


def _is_trained(job: Job) -> bool:
    """Whether there is an estimator; worker 0 trains one that is damaged again."""
    if not exists(job.estimator_folder / record.RECORD_FILE):
        return False
    try:
        record.read(job.estimator_folder)
    except DamagedFileError:
        return False
    return True


def run_command(command: str, settings: JobSettings, worker: Worker) -> int:
    """Run one stage, or all.

    Args:
        command: a stage, `status`, or `run`; this leaves out the evaluation if nothing is held out.

    Returns:
        0; 1 after an error and 2 where a setting is wrong, with one line on standard error.
    """
    logs.configure()
    try:
        record.check_name(settings.save_name)
        evaluation.check(settings)
        publish.check(settings)
        if settings.engine == "ray":
            ray_engine.check(settings)
        place_of(settings.out)
    except InputError as error:
        return _failed(str(error), _BAD_SETTINGS)
    needs_model = command not in ("train", "status") and settings.engine != "ray"
    job = Job(settings, worker, needs_model)
    try:
        if command == "status":
            print(*status_lines(job), sep="\n")
            return 0
        summary = _run_stages(job, command)
    except NothingToUseError as error:
        if command != "status":  # it changes nothing of a run
            _write_what_was_not_used(job, error)
        return _failed(str(error))
    except InputError as error:
        message = str(error)
        known = "examples" in job.__dict__  # they may be what cannot be read
        return _failed(job.examples.with_place(message) if known else message)
    except At2Error as error:
        _summarise_what_there_is(job)
        return _failed(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return _failed(f"{error.filename or settings.out}: {error.strerror or error}")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return _failed(
            "too little memory: make generate_batch_size, token_budget, batch_size or "
            "memory_limit_mb smaller, or spread the model with device_map"
        )
    print(*summary.lines(), sep="\n")
    return 0


def _run_stages(job: Job, command: str) -> Summary:
    stages = [command] if command != "run" else list(STAGES)
    if command == "run" and job.settings.held_out == 0:
        stages.remove("evaluate")
    for stage in stages:
        _run(job, stage)
        if stage == "generate":
            _stop_if_all_were_skipped(job)
        if command == "run" and job.worker.count > 1:
            if stage == "train":
                _wait_for_the_estimator(job)
            else:
                wait_for(job, stage)
    summary = summarise(job)
    summary.write(job.folder)
    return summary


def _stop_if_all_were_skipped(job: Job) -> None:
    skipped = job.trainer.skipped()
    if len(skipped) == job.trainer.plan.num_examples:
        reasons = {f"example {index}": reason for index, reason in skipped.items()}
        raise NothingToUseError("no example can be used", reasons)


def _summarise_what_there_is(job: Job) -> None:
    """A summary of a run that failed on the way, if it came far enough for one."""
    if "trainer" in job.__dict__:
        with suppress(At2Error, OSError):
            summarise(job).write(job.folder)


def _write_what_was_not_used(job: Job, error: NothingToUseError) -> None:
    """A summary of a run in which nothing could be done."""
    listed = [f"{place}: {reason}" for place, reason in error.reasons.items()]
    settings, examples = job.settings.model_dump(mode="json"), job.__dict__.get("examples")
    if examples is None:  # no row of the data set could be used
        summary = Summary(settings, 0, 0, bad_rows=listed, skipped=[])
    else:
        bad_rows = [str(row) for row in examples.bad_rows]
        skipped = [examples.with_place(line) for line in listed]
        summary = Summary(settings, examples.num_train, examples.num_held_out, bad_rows, skipped)
    print(*summary.lines(), sep="\n")
    try:
        summary.write(job.folder)
    except OSError as problem:
        logger.warning("no summary: %s", problem.strerror or problem)


def _failed(message: str, status: int = _FAILED) -> int:
    print(printable(f"error: {' '.join(message.split())}"), file=sys.stderr)
    return status


def _run(job: Job, stage: str) -> None:
    settings = job.settings
    if stage == "train" and job.worker.index > 0:
        logger.info("train: worker 0 does it")
        return

    def done(costs: dict[str, Any]) -> None:
        worker = job.worker if stage in SHARED else Worker()
        record_stage(job.folder, stage, (worker.index, worker.count), costs)

    logger.info("%s: %s", stage, job.worker)
    if "trainer" not in job.__dict__:
        # Others wait for this worker, and have to hear if it cannot begin.
        with Account(job, stage) if job.worker.together else nullcontext():
            _load(job)
    with measured(done):
        if stage == "train":
            with Account(job, stage):
                train(job)
        elif settings.engine == "ray":
            ray_engine.share_on_ray(job, stage)
        else:
            share(job, stage)


def _load(job: Job) -> None:
    """What all stages need: the examples, and the model where it is at hand."""
    settings = job.settings
    logger.info("loading data set %s, model %s", settings.dataset, settings.model)
    for row in job.examples.bad_rows:
        logger.warning("passed over %s, %s", settings.dataset, row)
    _ = job.trainer


def status_lines(job: Job) -> list[str]:
    """What is done of each stage, what is missing, by whom, and the time left."""
    lines = []
    now = time.time()
    plan = job.trainer.plan
    everything = {
        "generate": (range(plan.num_shards), job.trainer.run.has_responses),
        "compute": (range(plan.num_shards), job.trainer.run.has_features),
        "evaluate": (_to_evaluate(job), lambda index: _is_evaluated(job, index)),
    }
    for stage, (items, is_there) in everything.items():
        if stage == "evaluate":
            lines.append(_training_status(job))
        done_items = [item for item in items if is_there(item)]
        missing = sorted(set(items) - set(done_items))
        size = (lambda item: 1) if stage == "evaluate" else (lambda item: len(plan.examples(item)))
        examples = sum(map(size, items)), sum(map(size, done_items))
        status = StageStatus(stage, done_items, missing, examples, accounts(job, stage))
        lines += status.lines(now)
    return lines


def _to_evaluate(job: Job) -> Sequence[int]:
    try:
        return evaluation.held_out_examples(job)
    except At2Error:  # responses that the stages will refuse: which were passed over is not known
        return job.examples.held_out[: job.settings.evaluate_examples]


def _is_evaluated(job: Job, index: int) -> bool:
    try:
        return evaluation.is_evaluated(job, index)
    except At2Error:  # no estimator or no response: the stage will say what is wrong with it
        return False


def _training_status(job: Job) -> str:
    folder, name = job.estimator_folder, job.settings.save_name
    if exists(folder / record.RECORD_FILE):
        return f"train: estimator {name!r} is finished"
    steps = record.steps_taken(folder)
    return f"train: estimator {name!r}, {steps} of {job.settings.num_iterations} steps"


def summarise(job: Job) -> Summary:
    """What is known after the stages so far."""
    examples = job.examples
    folder = evaluation.folder(job)
    return Summary(
        settings=job.settings.model_dump(mode="json"),
        num_train=examples.num_train,
        num_held_out=examples.num_held_out,
        bad_rows=[str(row) for row in examples.bad_rows],
        skipped=[
            examples.with_place(f"example {index}: {reason}")
            for index, reason in job.trainer.skipped().items()
        ],
        training=_training(job),
        evaluation=str(folder) if exists(folder / evaluation.FILE) else None,
        stages=stage_costs(job.folder, STAGES),
    )


def _training(job: Job) -> dict[str, Any] | None:
    """What is known of the estimator, if there is one."""
    if not exists(job.estimator_folder / record.RECORD_FILE):
        return None
    try:
        losses = record.read(job.estimator_folder)["losses"]
        extras = load_estimator(job.estimator_folder).extras
    except (DamagedFileError, EstimatorError) as error:
        logger.warning("%s: run train again", error)
        return None
    curve = job.estimator_folder / LOSS_CURVE
    return {
        "examples": extras["training"]["examples"],
        "steps": len(losses),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "metrics": extras.get("metrics"),
        "estimator": str(job.estimator_folder),
        **({"loss_curve": str(curve)} if exists(curve) else {}),
    }
