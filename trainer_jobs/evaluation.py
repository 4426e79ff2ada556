"""The evaluation of a run: the trained estimator beside other methods, on what was held out.

The results of each example are kept until they would come out otherwise, so that an evaluation of
hours goes on where it was stopped.
"""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from at2 import AT2Trainer
from at2.errors import InputError, TrainingError
from at2.estimator.linear import LinearScoreEstimator
from at2.evaluation import (
    Evaluation,
    EvaluationExample,
    EvaluationSettings,
    ExampleResult,
    evaluate_example,
    markdown,
    plot,
    summarise,
)
from at2.files import remove_leftovers, write_whole
from at2.methods import AttributionMethod, method_named
from at2.progress import Progress
from at2.tasks import AttributionTask
from at2.training.manifest import fingerprint
from at2.training.settings import estimator_fingerprint
from at2.training.shards import ShardFolder
from trainer_jobs.examples import Example, Examples
from trainer_jobs.plots import can_plot, png
from trainer_jobs.settings import JobSettings

FILE = "evaluation.json"
"""The results as plain values, in the folder of an evaluation."""


def folder(settings: JobSettings) -> Path:
    """Where the evaluation of an estimator is, or will be."""
    return settings.out / "evaluation" / settings.save_name


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


def evaluate(
    settings: JobSettings,
    examples: Examples,
    trainer: AT2Trainer,
    make_task: Callable[[Example, Any, Any, str], AttributionTask],
    estimator: LinearScoreEstimator,
) -> Evaluation:
    """Measure the methods on the held-out examples, with the responses that were generated.

    Args:
        make_task: makes a task of an example, the model, the tokenizer and the level of sources.

    Raises:
        InputError: nothing is held out, or all of it was passed over.
        TrainingError: responses are missing or damaged, or results cannot be written.
    """
    skipped = trainer.skipped()
    indices = [i for i in examples.held_out if i not in skipped][: settings.evaluate_examples]
    if not indices:
        raise InputError(
            f"held_out={settings.held_out}: no example to evaluate with", param="held_out"
        )
    methods, measures = check(settings)
    described = {
        "measures": {name: repr(value) for name, value in sorted(vars(measures).items())},
        "methods": list(settings.methods),
        "estimator": estimator_fingerprint(estimator),
        "source_type": settings.evaluate_source_type,
        "model": trainer.model.name_or_path,
    }

    for place in (folder(settings), folder(settings) / "examples"):
        remove_leftovers(place)

    def results() -> Iterator[ExampleResult]:
        with Progress(len(indices), "Evaluating") as progress:
            for index in indices:
                example = examples.examples[index]
                task = make_task(
                    example, trainer.model, trainer.tokenizer, settings.evaluate_source_type
                )
                task.set_generation_ids(trainer.get_task(index).generation_ids)
                digest = fingerprint({**described, "ids": list(task.token_ids)})
                kept = ShardFolder(folder(settings) / "examples", ".json", digest)
                found = _read(kept, index)
                if found is not None:
                    progress.found()
                else:
                    found = evaluate_example(
                        EvaluationExample(task),
                        methods,
                        index=index,
                        estimator=estimator,
                        settings=measures,
                    )
                    kept.write(index, partial(_to_bytes, found))
                    progress.update()
                yield found

    return summarise(results(), settings=measures)


def _to_bytes(result: ExampleResult, seal: str) -> bytes:
    return json.dumps({"at2": seal, "result": result.to_dict()}).encode()


def _read(kept: ShardFolder, index: int) -> ExampleResult | None:
    """What was found before under the same settings, if it is whole."""
    if not kept.exists(index):
        return None
    try:
        kept.check(index)
    except TrainingError:
        return None
    return ExampleResult.from_dict(json.loads(kept.file(index).read_bytes())["result"])


def save(evaluation: Evaluation, path: Path) -> None:
    """Write `evaluation.json`, `evaluation.md` and, with matplotlib, `evaluation.png`.

    Raises:
        OSError: the folder cannot be written to.
    """
    write_whole(path / FILE, evaluation.to_json().encode("utf-8"))
    write_whole(path / "evaluation.md", markdown(evaluation).encode("utf-8"))
    if can_plot():
        write_whole(path / "evaluation.png", png(plot(evaluation)))
