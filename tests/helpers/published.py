"""Runs the published `at2` package in a process of its own, on a model and texts given by a folder.

Run as a script: reads `job.json` and `model/` in the folder named on the command line and writes
what was found beside them. The package imports spaCy and datasets and downloads NLTK data at
import, little of which is needed here: stand-ins take their place. Knows nothing of our `at2`: in
that process the name is the published package's.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parents[2] / ".peers" / "at2"


def _published(module: str = "at2") -> Any:
    """A module of the published package; type checkers would take ours for it."""
    return importlib.import_module(module)


def published_scores(folder: Path) -> None:
    """Scores of one text: `scores.npy` [tokens of the sources, targets] and `ids.json`.

    The job is `name` (the package guesses the architecture from it), `context`, `query`,
    `generation`; an estimator is in `score_estimator.pt`.
    """
    _run(folder, "scores")


def published_training(folder: Path) -> dict[str, Any]:
    """Features, outputs and the estimator that is trained on them.

    The job is `name`, `examples` (of context, query and generation), `split_target_by`,
    `num_masks`, and `fit` (arguments of `train`, and `seed`; nothing is trained without it).
    Sources are tokens. Outputs are also kept as they were before they were rounded to float16:
    `outputs_0.npy`, …. With `warm`, one example is computed before the stage is measured.

    Returns:
        `seconds`, `cpu_seconds` and `mib` (memory above the loaded model) of the compute stage,
        `targets` of each example, and where to find the `features` and `outputs` of all targets.
    """
    _run(folder, "training")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def published_attribution(folder: Path) -> dict[str, float]:
    """Time and memory of an attribution of the whole response to sentences.

    The job is as for `published_scores`, and `repeats`; without a `generation`, the response is
    generated in the measured time, too.

    Returns:
        `seconds`, the median, and `mib`, the memory above the loaded model at its peak.
    """
    _run(folder, "attribution")
    result: dict[str, float] = json.loads((folder / "result.json").read_text())
    return result


def median_measured(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """MiB of the first run, later ones being given what that one had, and the median of seconds of
    as many more."""
    mib = measured(work)["mib"]
    runs = [measured(work) for _ in range(repeats)]
    return {"seconds": statistics.median(run["seconds"] for run in runs), "mib": mib}


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds that work takes, of all threads too, and MiB above what this process has before it,
    at its peak (Linux)."""
    before = _status_mib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started, worked = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - worked,
        "mib": _status_mib("VmHWM") - before,
    }


def _status_mib(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def _run(folder: Path, kind: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(PEERS), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", __file__, kind, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the published package failed: {done.stderr[-2000:]}")


def _stand_in(name: str, **members: object) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(members)
    sys.modules[name] = module


class _Rows(list[dict[str, Any]]):
    """The one use of `datasets.Dataset`: rows from columns."""

    @classmethod
    def from_dict(cls, columns: dict[str, list[Any]]) -> "_Rows":
        return cls(dict(zip(columns, row, strict=True)) for row in zip(*columns.values()))  # noqa: B905


def _prepare() -> None:
    import nltk
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    _stand_in("spacy")
    _stand_in("spacy.lang")
    _stand_in("spacy.lang.en", English=object)
    _stand_in("datasets", Dataset=_Rows)
    nltk.download = lambda *_: True
    nltk.sent_tokenize = PunktSentenceTokenizer().tokenize  # its data are not at hand


def _load(folder: Path, job: dict[str, Any]) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    model.name_or_path = job["name"]
    tokenizer = AutoTokenizer.from_pretrained(folder / "model", padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return model, tokenizer


def _task(job: dict[str, Any], model: Any, tokenizer: Any, source_type: str) -> Any:
    """The job's task; without a response in the job, one that has yet to generate it."""
    task = _published("at2.tasks").SimpleContextAttributionTask(
        context=job["context"],
        query=job["query"],
        model=model,
        tokenizer=tokenizer,
        source_type=source_type,
    )
    if job["generation"] is not None:
        task.set_generation(job["generation"])
    return task


def _scores(folder: Path, job: dict[str, Any]) -> None:
    import numpy as np

    task = _task(job, *_load(folder, job), "token")
    attributor = _published().AT2Attributor.from_path(task, folder / "score_estimator.pt")
    np.save(folder / "scores.npy", attributor.scores.numpy())
    (folder / "ids.json").write_text(
        json.dumps(
            {
                "ids": task.get_tokens()["input_ids"],
                "sources": task.source_token_ranges,
                "target": task.target_token_range,
            }
        )
    )


def _attribution(folder: Path, job: dict[str, Any]) -> None:
    import torch

    at2 = _published()
    model, tokenizer = _load(folder, job)
    estimator = at2.AT2ScoreEstimator.load(folder / "score_estimator.pt")
    with torch.no_grad():  # weights are read from the file when they are first used
        model(torch.arange(16)[None])

    def attribute() -> None:
        task = _task(job, model, tokenizer, "sentence")
        at2.AT2Attributor(task, estimator).get_attribution_scores()

    (folder / "result.json").write_text(json.dumps(median_measured(attribute, job["repeats"])))


def _training(folder: Path, job: dict[str, Any]) -> None:
    import numpy as np
    import torch

    model, tokenizer = _load(folder, job)
    run = folder / "run"
    examples = job["examples"]
    (run / "generations").mkdir(parents=True)
    (run / "generations" / "0_of_1.json").write_text(
        json.dumps({index: example["generation"] for index, example in enumerate(examples)})
    )

    def task_from_example(example: dict[str, str], *rest: Any) -> Any:
        return _published("at2.tasks").SimpleContextAttributionTask(
            example["context"], example["query"], *rest, source_type="token"
        )

    trainer = _published().AT2Trainer(
        save_path=run,
        dataset=examples,
        model=model,
        tokenizer=tokenizer,
        task_from_example=task_from_example,
        split_target_by=job["split_target_by"],
        num_masks=job["num_masks"],
    )
    trainer.generate()  # nothing but the numbers of sources and targets is left to do
    if job.get("warm"):
        trainer.compute_features_and_outputs_for_example(0)
    computed = trainer.compute_features_and_outputs_for_example

    def computed_and_kept(index: int, batch_size: int) -> Any:
        features, outputs = computed(index, batch_size=batch_size)
        np.save(folder / f"outputs_{index}.npy", outputs)
        return features, outputs

    trainer.compute_features_and_outputs_for_example = computed_and_kept
    cost = measured(trainer.compute_features_and_outputs)
    if "fit" in job:
        fit = dict(job["fit"])
        np.random.seed(fit.pop("seed"))
        estimator = trainer.train(device="cpu", **fit)
        torch.save(estimator.linear.weight.detach(), folder / "weight.pt")
    place = run / "features_and_outputs"
    result = {
        **cost,
        "targets": [trainer.task_datas[index]["num_targets"] for index in range(len(examples))],
        "features": str(place / "features_0_of_1.npy"),
        "outputs": str(place / "outputs_0_of_1.npy"),
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    _prepare()
    _folder = Path(sys.argv[2])
    _job = json.loads((_folder / "job.json").read_text())
    {"scores": _scores, "attribution": _attribution, "training": _training}[sys.argv[1]](
        _folder, _job
    )
