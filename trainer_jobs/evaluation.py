"""The evaluation of a run: the trained estimator beside other methods, on what was held out.

The results of each example are kept until they would come out otherwise, so that an evaluation of
hours goes on where it was stopped.
"""

import json
from functools import partial

from at2.errors import InputError, TrainingError
from at2.evaluation import (
    EvaluationExample,
    EvaluationSettings,
    ExampleResult,
    evaluate_example,
    markdown,
    save,
    summarise,
)
from at2.files import Place, read_whole, remove_leftovers
from at2.fingerprints import fingerprint
from at2.methods import AttributionMethod, method_named
from at2.progress import Progress
from at2.training.settings import estimator_fingerprint
from at2.training.shards import ShardFolder
from trainer_jobs.job import Job
from trainer_jobs.settings import JobSettings

FILE = "evaluation.json"
"""The results as plain values, in the folder of an evaluation."""


def folder(job: Job) -> Place:
    """Where the evaluation of an estimator is, or will be."""
    return job.folder / "evaluation" / job.settings.save_name


def check(settings: JobSettings) -> tuple[list[AttributionMethod], EvaluationSettings]:
    """The methods and what is measured of them.

    Raises:
        InputError: there is no such method, or a setting is out of range.
    """
    return [method_named(name) for name in settings.methods], EvaluationSettings(
        num_masks=settings.evaluate_masks,
        top_k=settings.evaluate_top_k,
        ablations=settings.evaluate_ablations,
    )


def examples_to_evaluate(job: Job) -> list[int]:
    """The examples to evaluate with.

    Raises:
        InputError: there is no estimator, nothing is held out, or all of it was passed over.
    """
    _ = job.estimator  # the first thing to be missed
    chosen = held_out_examples(job)
    if not chosen:
        raise InputError(
            f"held_out={job.settings.held_out}: no example to evaluate with", param="held_out"
        )
    return chosen


def held_out_examples(job: Job) -> list[int]:
    """The examples to evaluate with, if any: those held out that were not passed over."""
    skipped = job.trainer.skipped()
    usable = [index for index in job.examples.held_out if index not in skipped]
    return usable[: job.settings.evaluate_examples]


def evaluate_one(job: Job, index: int, progress: Progress) -> None:
    """Measure the methods on an example, unless that is on disk.

    Raises:
        TrainingError: its response is missing or damaged, or the result cannot be written.
    """
    if _read(job, index) is not None:
        progress.count_existing()
        return
    settings, trainer = job.settings, job.trainer
    example = job.examples.examples[index]
    task = job.task(example, trainer.model, trainer.tokenizer, settings.evaluate_source_type)
    task.set_generation_ids(trainer.get_task(index).generation_ids)
    methods, measures = check(settings)
    result = evaluate_example(
        EvaluationExample(task), methods, index=index, estimator=job.estimator, settings=measures
    )
    _results(job).write(index, partial(_to_bytes, result))
    progress.update()


def is_evaluated(job: Job, index: int) -> bool:
    """Whether an example's results are on disk, for these settings, this estimator and the
    response that there is. Needs no model.

    Raises:
        InputError: there is no estimator.
        TrainingError: it is damaged, or there are no responses.
    """
    return _read(job, index) is not None


def write_evaluation(job: Job) -> None:
    """Put the results of all examples together, on disk and on standard output."""
    for place in (folder(job), folder(job) / "examples"):
        remove_leftovers(place)
    results = [_read(job, index) for index in examples_to_evaluate(job)]
    evaluation = summarise(
        [result for result in results if result is not None], settings=check(job.settings)[1]
    )
    save(evaluation, folder(job))
    print(markdown(evaluation))


def _results(job: Job) -> ShardFolder:
    """The results of examples, each of its response."""
    _, measures = check(job.settings)
    depends_on = {
        "measures": {name: repr(value) for name, value in sorted(vars(measures).items())},
        "methods": list(job.settings.methods),
        "estimator": estimator_fingerprint(job.estimator),
        "source_type": job.settings.evaluate_source_type,
        "responses": job.trainer.run.responses.settings,  # the model, too
    }
    return ShardFolder(
        folder(job) / "examples",
        ".json",
        fingerprint(depends_on),
        lambda index: fingerprint(vars(job.trainer.run.response(index))),
    )


def _read(job: Job, index: int) -> ExampleResult | None:
    """What was found before under the same settings, if it is whole."""
    results = _results(job)
    if not results.exists(index):
        return None
    try:
        results.check(index)
    except TrainingError:
        return None
    return ExampleResult.from_dict(json.loads(read_whole(results.file(index)))["result"])


def _to_bytes(result: ExampleResult, seal: str) -> bytes:
    return json.dumps({"at2": seal, "result": result.to_dict()}).encode()
