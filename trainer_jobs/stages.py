"""The stages of a run, one after the other or each by itself, on the library's `AT2Trainer`.

What a stage has finished is on disk before it ends, so everything here can be stopped and started
again.
"""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from at2 import AT2Trainer, AttentionFeatureExtractor
from at2.errors import At2Error, DamagedFileError, EstimatorError, InputError, is_out_of_memory
from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.evaluation import markdown
from at2.model.loading import get_model_and_tokenizer
from at2.tasks import AttributionTask
from at2.training import record
from at2.training.fit import LOSSES
from trainer_jobs import evaluation, logs
from trainer_jobs.examples import Example, Examples, load_examples, make_task
from trainer_jobs.measure import measured
from trainer_jobs.plots import can_plot, plot_losses
from trainer_jobs.settings import JobSettings
from trainer_jobs.summary import Summary, record_stage, stage_costs
from trainer_jobs.workers import Worker

logger = logging.getLogger("trainer_jobs")

LOSS_CURVE = "loss.png"
"""Beside an estimator."""

_MB = 1_000_000
_FAILED, _BAD_SETTINGS = 1, 2


@dataclass(frozen=True)
class Job:
    """What all stages need, made when it is first asked for.

    Attributes:
        settings: all of them.
        worker: which part of the shards is done here.
    """

    settings: JobSettings
    worker: Worker

    @cached_property
    def examples(self) -> Examples:
        """What is trained on and held out."""
        return load_examples(self.settings)

    @cached_property
    def model_and_tokenizer(self) -> tuple[Any, Any]:
        """The model to train an estimator for."""
        settings = self.settings
        return get_model_and_tokenizer(
            settings.model,
            dtype=None if settings.dtype == "auto" else settings.dtype,
            device=settings.device,
            attn_implementation=settings.attn_implementation,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            device_map=settings.device_map,
            quantization=settings.quantization,
        )

    def task(
        self, example: Example, model: Any, tokenizer: Any, source_type: str | None = None
    ) -> AttributionTask:
        """The task of an example; by default with the sources that are trained on."""
        source_type = source_type or example.get("source_type", self.settings.source_type[0])
        return make_task(self.settings, example, model, tokenizer, source_type)

    @cached_property
    def trainer(self) -> AT2Trainer:
        """The library's trainer, which does the work."""
        settings = self.settings
        split = settings.split_target_by
        model, tokenizer = self.model_and_tokenizer
        return AT2Trainer(
            settings.out,
            self.examples.examples,
            model,
            tokenizer,
            self.task,
            AttentionFeatureExtractor.from_model(model, settings.exponents, settings.contrast),
            split_target_by=None if split == "response" else split,
            num_masks=settings.num_masks,
            seed=settings.seed,
            shard_size=settings.shard_size,
            token_budget=settings.token_budget,
            skip=settings.bad_rows == "skip",
        )

    @property
    def estimator_folder(self) -> Path:
        """Where the estimator is, or will be."""
        return self.settings.out / "estimators" / self.settings.save_name


def generate(job: Job) -> None:
    """Responses to this worker's examples."""
    job.trainer.generate(job.worker.index, job.worker.count, job.settings.generate_batch_size)


def compute(job: Job) -> None:
    """Features and outputs of this worker's examples."""
    job.trainer.compute_features_and_outputs(job.worker.index, job.worker.count)


def train(job: Job) -> None:
    """The estimator, and its loss curve."""
    settings = job.settings
    limit = settings.memory_limit_mb
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
    )
    if can_plot():
        found = record.read(job.estimator_folder)
        plot_losses(found["losses"], found["held_out"], job.estimator_folder / LOSS_CURVE)
    else:
        logger.warning("no %s: matplotlib is not installed", LOSS_CURVE)


def evaluate(job: Job) -> None:
    """The estimator beside other methods, on examples that are held out."""
    estimator = _estimator(job)
    found = evaluation.evaluate(job.settings, job.examples, job.trainer, job.task, estimator)
    evaluation.save(found, evaluation.folder(job.settings))
    print(markdown(found))


STAGES: dict[str, Callable[[Job], None]] = {
    "generate": generate,
    "compute": compute,
    "train": train,
    "evaluate": evaluate,
}
"""In their order."""

_SHARED = frozenset({"generate", "compute"})
"""The stages whose work is dealt to workers; worker 0 does the others."""


def run_command(command: str, settings: JobSettings, worker: Worker) -> int:
    """Run one stage, or all.

    Args:
        command: a stage, or `run`; this leaves out the evaluation if nothing is held out.

    Returns:
        0; 1 after an error and 2 where a setting is wrong, with one line on standard error.
    """
    logs.configure()
    try:
        record.check_name(settings.save_name)
        evaluation.check(settings)
    except InputError as error:
        return _failed(str(error), _BAD_SETTINGS)
    job = Job(settings, worker)
    stages = list(STAGES) if command == "run" else [command]
    if command == "run" and settings.held_out == 0:
        stages.remove("evaluate")
    if worker.index > 0 and command not in _SHARED:
        logger.info("%s: worker 0 does it", command)
        return 0
    try:
        for stage in stages:
            _run(job, stage)
        summary = summarise(job)
        summary.write(settings.out)
    except InputError as error:
        message = str(error)
        known = "examples" in job.__dict__  # they may be what cannot be read
        return _failed(job.examples.with_place(message) if known else message)
    except At2Error as error:
        return _failed(str(error))
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


def _failed(message: str, status: int = _FAILED) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _run(job: Job, stage: str) -> None:
    def done(costs: dict[str, Any]) -> None:
        worker = job.worker if stage in _SHARED else Worker()
        record_stage(job.settings.out, stage, (worker.index, worker.count), costs)

    logger.info("%s: %s", stage, job.worker)
    if "trainer" not in job.__dict__:
        logger.info("loading data set %s, model %s", job.settings.dataset, job.settings.model)
        for row in job.examples.bad_rows:
            logger.warning("passed over %s, %s", job.settings.dataset, row)
        _ = job.trainer
    with measured(done):
        STAGES[stage](job)


def summarise(job: Job) -> Summary:
    """What is known after the stages so far."""
    examples = job.examples
    folder = evaluation.folder(job.settings)
    return Summary(
        settings=job.settings.model_dump(mode="json"),
        num_train=len(examples.examples) - examples.num_held_out,
        num_held_out=examples.num_held_out,
        bad_rows=[str(row) for row in examples.bad_rows],
        skipped=[
            examples.with_place(f"example {index}: {reason}")
            for index, reason in job.trainer.skipped().items()
        ],
        training=_training(job),
        evaluation=str(folder) if (folder / evaluation.FILE).exists() else None,
        stages=stage_costs(job.settings.out, list(STAGES)),
    )


def _estimator(job: Job) -> LinearScoreEstimator:
    if not (job.estimator_folder / record.RECORD_FILE).exists():
        raise InputError(f"no estimator {job.settings.save_name!r} yet: run train first")
    try:
        record.read(job.estimator_folder)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}: run train again") from error
    return load_estimator(job.estimator_folder)


def _training(job: Job) -> dict[str, Any] | None:
    """What is known of the estimator, if there is one."""
    if not (job.estimator_folder / record.RECORD_FILE).exists():
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
        **({"loss_curve": str(curve)} if curve.exists() else {}),
    }
