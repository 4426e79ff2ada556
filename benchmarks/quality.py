"""How good the methods are, on questions that the bundled model was never trained on.

`python -m benchmarks.quality --out docs/quality`: precision and recall of the known supporting
sentences, LDS, top-k drops, and the passes that each method takes; then LDS by the length of the
context and for words and tokens. FlashTrace is compared where `--flashtrace FOLDER` names a folder
with the package, installed by `pip install --no-deps --target FOLDER flashtrace`.
"""

import argparse
import json
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from at2 import LinearScoreEstimator, bundled
from at2.estimator.linear import load_estimator
from at2.evaluation import EvaluationExample, EvaluationSettings, evaluate, markdown, save
from at2.methods import AttributionMethod, Attributor, method_named
from at2.methods.registry import Passes
from at2.model.capture import attention_implementation
from at2.utils import get_model_and_tokenizer
from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.questions import Asked, ask, task_of

METHODS = (
    "at2",
    "average_attention",
    "leave_one_out",
    "context_cite_16",
    "context_cite_32",
    "context_cite_64",
    "context_cite_256",
    "gradient_norm",
    "input_x_gradient",
    "lexical_overlap",
    "position",
    "random",
)
CASES = (
    ("sentence", (4, 4)),
    ("sentence", (8, 8)),
    ("sentence", (16, 16)),
    ("sentence", (24, 24)),
    ("word", (8, 16)),
    ("token", (8, 16)),
)
_KINDS = frozenset({"single", "about"})
# apart from the seeds of training, of the bundled model's report, and of `benchmarks.estimators`,
# whose questions helped to choose how the bundled estimator is trained
_SEED = 5_000_011


def questions(count: int, sentences: tuple[int, int], seed: int = _SEED) -> list[Asked]:
    """Questions with an answer in the text, about names that training never saw."""
    names = NameSource(held_out=True)
    return list(ask(count, seed=seed, sentences=sentences, names=names, kinds=_KINDS))


def examples(model: Any, tokenizer: Any, asked: Iterable[Asked]) -> Iterator[EvaluationExample]:
    """Their tasks, and which sources support each statement of an answer that is right."""
    for one in asked:
        task = task_of(one, model, tokenizer)
        starts = [source.start for source in task.source_spans]
        right = task.generation == one.question.answer
        support = [{starts.index(start)} for start in one.support] if right else None
        yield EvaluationExample(task, support)


class FlashTraceAttributor(Attributor):
    """FlashTrace's scores of prompt tokens (arXiv 2602.01914), summed over each source."""

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        from flashtrace import FlashTrace  # type: ignore[import-not-found]

        task = self.task
        prompt = task.tokenizer.decode(task.token_ids[: task.target_token_range[0]])
        with attention_implementation(task.model, "eager"):
            trace = FlashTrace(task.model, task.tokenizer).trace(
                prompt=prompt,
                target=task.target,
                output_span=(token_start, token_end - 1),
            )
        if len(trace.scores) != task.target_token_range[0]:
            raise RuntimeError("FlashTrace has read other tokens")
        return np.array([sum(trace.scores[a:b]) for a, b in task.source_token_ranges])


def flashtrace_method(folder: Path) -> AttributionMethod:
    """FlashTrace, with stand-ins for what it imports and does not need here: spaCy, wordfreq and
    seaborn, for its own sentences and plots."""

    class Language:
        @staticmethod
        def component(_: str) -> Any:
            return lambda function: function

    pipeline = types.SimpleNamespace(pipe_names=(), add_pipe=lambda *_, **__: None)
    parts: dict[str, dict[str, Any]] = {
        "spacy": {"load": lambda _: pipeline},
        "spacy.language": {"Language": Language},
        "spacy.tokens": {"Doc": object},
        "wordfreq": {"zipf_frequency": lambda *_: 0.0},
        "seaborn": {},
    }
    for name, contents in parts.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        sys.modules.setdefault(name, module)
    sys.path.append(str(folder))
    return AttributionMethod(
        "flashtrace",
        "information flow through attention, FlashTrace 0.1.1",
        lambda task, _: FlashTraceAttributor(task),
        lambda _: Passes(forward_per_span=1),
    )


def lds_table(model: Any, tokenizer: Any, estimator: LinearScoreEstimator, count: int) -> list[str]:
    """LDS of some methods by the length of the context and by what the sources are."""
    methods = ("at2", "average_attention", "context_cite_16", "context_cite_64")
    lines = [
        "| sources | sentences in the context | " + " | ".join(methods) + " |",
        "|---" * (len(methods) + 2) + "|",
    ]
    settings = EvaluationSettings(num_masks=64, top_k=(1,), ablations=("mask",))
    for source_type, sentences in CASES:
        asked = questions(count, sentences, _SEED + sentences[0])
        found = evaluate(
            (EvaluationExample(task_of(one, model, tokenizer, source_type)) for one in asked),
            methods,
            estimator=estimator,
            settings=settings,
            total=count,
        )
        cells = [found.values[name]["lds/mask"] for name in methods]
        lines.append(
            f"| {source_type}s | {'–'.join(map(str, dict.fromkeys(sentences)))} | "
            + " | ".join(f"{cell.mean:.3f} [{cell.low:.3f}, {cell.high:.3f}]" for cell in cells)
            + " |"
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/quality"))
    parser.add_argument("--count", type=int, default=60, help="responses in the main table")
    parser.add_argument("--flashtrace", type=Path, help="folder with the package")
    given = parser.parse_args(arguments)
    model, tokenizer = get_model_and_tokenizer("bundled", device="cpu")
    estimator = load_estimator(bundled.ESTIMATOR_PATH)
    methods = [method_named(name) for name in METHODS]
    if given.flashtrace is not None:
        methods.insert(2, flashtrace_method(given.flashtrace))
    found = evaluate(
        examples(model, tokenizer, questions(given.count, (8, 16))),
        methods,
        estimator=estimator,
        settings=EvaluationSettings(),
        total=given.count,
    )
    save(found, given.out)
    print(markdown(found))
    rows = lds_table(model, tokenizer, estimator, max(2, given.count // 2))
    print(*rows, sep="\n")
    (given.out / "sources.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }
    (given.out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
