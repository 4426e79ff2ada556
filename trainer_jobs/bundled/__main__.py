"""`python -m trainer_jobs.bundled all`: make the bundled model and its estimator from nothing.

Every stage goes on from what is on disk, so a run that was stopped is started again the same way.
"""

import argparse
import json
from pathlib import Path

from tqdm.auto import tqdm

from at2 import LinearScoreEstimator, bundled
from at2.model.loading import get_model_and_tokenizer
from trainer_jobs.bundled.estimator import ship, train_estimator
from trainer_jobs.bundled.export import export
from trainer_jobs.bundled.report import ATTRIBUTED, attribution_precision, exact_rates, markdown
from trainer_jobs.bundled.train import Recipe, Trainer

_STAGES = ("train", "export", "estimator", "report")


def _train(folder: Path, _: int) -> None:
    trainer = Trainer(Recipe(), folder)
    trainer.resume()
    with tqdm(total=trainer.recipe.steps, initial=trainer.step, desc="Training") as bar:
        for record in trainer.run():
            bar.update(record["step"] - bar.n)
            bar.set_postfix({"loss": record["loss"]} | record.get("exact", {}))


def _export(folder: Path, _: int) -> None:
    trainer = Trainer(Recipe(), folder)
    trainer.resume()
    export(trainer.network, trainer.tokenizer, bundled.PATH)


def _estimator(folder: Path, count: int) -> None:
    model, tokenizer = get_model_and_tokenizer()
    estimator = train_estimator(model, tokenizer, folder / "estimator")
    metrics = {
        f"{low}_to_{high}_sentences": attribution_precision(
            model, tokenizer, estimator, count, (low, high)
        )
        for low, high in ATTRIBUTED
    }
    ship(estimator, bundled.ESTIMATOR_PATH, metrics)
    print(json.dumps(metrics, indent=2))


def _report(_: Path, count: int) -> None:
    model, tokenizer = get_model_and_tokenizer()
    print(markdown(exact_rates(model, tokenizer, count)))
    print(LinearScoreEstimator.load(bundled.ESTIMATOR_PATH).extras["metrics"])


def main() -> None:
    """Parse the command line and run the stages."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer_jobs.bundled",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=(*_STAGES, "all"))
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/bundled"), help="checkpoints and log"
    )
    parser.add_argument("--count", type=int, default=300, help="questions per measured figure")
    arguments = parser.parse_args()
    stages = {"train": _train, "export": _export, "estimator": _estimator, "report": _report}
    for name in _STAGES if arguments.stage == "all" else (arguments.stage,):
        stages[name](arguments.out, arguments.count)


if __name__ == "__main__":
    main()
