"""How good the methods are on questions that no estimator was trained on.

`python -m benchmarks.quality --squad FILE --out docs/quality`: LDS, top-k drops, precision and
recall of the sentence that holds the answer, and the passes that each method takes, on questions
about the passages of the tests and about articles of XQuAD from the 33rd on; then LDS by the length
of the context and for words and tokens, of all statements and of those that are supported by the
context, as `at2.evaluation.verdicts` judges. FlashTrace is compared where `--flashtrace FOLDER`
names a folder with the package, installed by `pip install --no-deps --target FOLDER flashtrace`.
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
from tqdm.auto import tqdm

from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.evaluation import (
    Estimate,
    EvaluationExample,
    EvaluationSettings,
    ExampleResult,
    evaluate_example,
    markdown,
    save,
    summarise,
)
from at2.evaluation.verdicts import load_calibration
from at2.methods import AttributionMethod, Attributor, method_named
from at2.methods.registry import Passes
from at2.model import default
from at2.model.twin import twin_for_pass
from at2.utils import get_model_and_tokenizer
from benchmarks.first_source import HELD_OUT_ARTICLES
from benchmarks.questions import Asked, from_passages, from_squad

METHODS = (
    "at2",
    "average_attention",
    "contrastive_attention",
    "leave_one_out",
    "context_cite_16",
    "context_cite_32",
    "context_cite_64",
    "context_cite_256",
    "visibility_gradient",
    "gradient_norm",
    "input_x_gradient",
    "lexical_overlap",
    "position",
    "random",
)
LDS_METHODS = (
    "at2",
    "average_attention",
    "contrastive_attention",
    "visibility_gradient",
    "context_cite_8",
    "context_cite_32",
)
LEADS = (
    ("at2", "average_attention"),
    ("at2", "context_cite_32"),
    ("visibility_gradient", "average_attention"),
    ("visibility_gradient", "context_cite_32"),
)
CASES = (
    ("sentence", 0),
    ("sentence", 1),
    ("sentence", 3),
    ("sentence", 5),
    ("word", 1),
    ("token", 1),
)
"""What the sources are, and how many paragraphs of an article the contexts have; 0 are the passages
of the tests."""


def examples(model: Any, tokenizer: Any, asked: Iterable[Asked]) -> Iterator[EvaluationExample]:
    """Their tasks, and which sources support the statement that holds the answer."""
    for one in asked:
        task = one.task(model, tokenizer)
        span = one.answer_range(task.target)
        support = None
        if span is not None:
            holds = one.supporting(task)
            support = [holds if s <= span[0] < e else None for s, e in task.statements]
        yield EvaluationExample(task, support)


class FlashTraceAttributor(Attributor):
    """FlashTrace's scores of prompt tokens (arXiv 2602.01914), summed over each source."""

    def _get_attribution_scores_for_token_range(
        self, token_start: int, token_end: int
    ) -> NDArray[np.float64]:
        from flashtrace import FlashTrace  # type: ignore[import-not-found]

        task = self.task
        prompt = task.tokenizer.decode(task.token_ids[: task.target_token_range[0]])
        with twin_for_pass(task.model, "eager") as model:
            trace = FlashTrace(model, task.tokenizer).trace(
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


def results(
    title: str,
    given: Iterable[EvaluationExample],
    methods: Sequence[AttributionMethod],
    estimator: LinearScoreEstimator,
    settings: EvaluationSettings,
    keep: Path | None,
) -> list[ExampleResult]:
    """What is measured of each example; those in the file `keep` are read from it."""
    known = {}
    if keep is not None and keep.exists():
        for line in keep.read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            known[values.pop("title"), values["index"]] = ExampleResult.from_dict(values)
    found = []
    for index, example in enumerate(tqdm(given, desc=title)):
        result = known.get((title, index))
        if result is None:
            result = evaluate_example(
                example, methods, index=index, estimator=estimator, settings=settings
            )
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    print(json.dumps({"title": title, **result.to_dict()}), file=file)
        found.append(result)
    return found


def lds_row(
    title: str, found: Sequence[ExampleResult], min_context_support: float | None = None
) -> str:
    """LDS of each method, and leads of some over others: of statements that the context supports by
    so many nats a token, if that is given."""
    by = {
        better: summarise(found, reference=better, min_context_support=min_context_support)
        for better, _ in LEADS
    }
    whole = next(iter(by.values()))
    if not whole.metrics:
        return f"| {title} | 0 |" + " |" * (len(LDS_METHODS) + len(LEADS))
    cells = [whole.values[name]["lds/mask"] for name in LDS_METHODS]
    leads = [by[better].differences[other]["lds/mask"] for better, other in LEADS]
    return (
        f"| {title} | {cells[0].sentences} | "
        + " | ".join(interval(cell, "") for cell in cells)
        + " | "
        + " | ".join(interval(lead, "+") for lead in leads)
        + " |"
    )


def interval(found: Estimate, sign: str) -> str:
    """A mean with its interval, if there is one."""
    if found.low is None or found.high is None:
        return f"{found.mean:{sign}.3f}"
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]"


def lds_table(
    model: Any,
    tokenizer: Any,
    estimator: LinearScoreEstimator,
    squad: Path,
    count: int,
    num_masks: int,
    keep: Path | None,
    cases: Sequence[tuple[str, int]],
    supported: float | None,
) -> list[str]:
    """LDS of some methods by the length of the context and by what the sources are: of all
    statements, and of those that the context supports by so many nats a token."""
    methods = [method_named(name) for name in LDS_METHODS]
    leads = [f"{better} less {other}" for better, other in LEADS]
    names = ["sources", "statements", *LDS_METHODS, *leads]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    print(*lines, sep="\n", flush=True)
    settings = EvaluationSettings(num_masks=num_masks, top_k=(), ablations=("mask",))
    for source_type, paragraphs in cases:
        title = f"{source_type}s, paragraphs: {paragraphs or 'passages'}"
        if paragraphs:
            asked = from_squad(squad, HELD_OUT_ARTICLES, (paragraphs,), count, seed=1)
        else:
            asked = drawn(from_passages(), count)
        given = (EvaluationExample(one.task(model, tokenizer, source_type)) for one in asked)
        found = results(title, given, methods, estimator, settings, keep)
        rows = [lds_row(title, found)]
        if supported is not None:
            rows.append(lds_row("of these, supported", found, supported))
        print(*rows, sep="\n", flush=True)
        lines += rows
    return lines


def case(text: str) -> tuple[str, int]:
    """A row of the second table from the command line."""
    source_type, paragraphs = text.split(":")
    return source_type, int(paragraphs)


def drawn(asked: Sequence[Asked], count: int) -> list[Asked]:
    """So many questions, drawn at random; a larger count begins with the same ones."""
    order = np.random.default_rng(0).permutation(len(asked))
    return [asked[place] for place in order[:count]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/quality"))
    parser.add_argument("--estimator", default=str(default.ESTIMATOR_PATH))
    parser.add_argument("--squad", type=Path, help="a file in the layout of SQuAD")
    parser.add_argument("--passages", type=int, default=24, help="questions about passages")
    parser.add_argument("--articles", type=int, default=24, help="questions about articles")
    parser.add_argument("--lengths", type=int, default=12, help="responses a row of table 2")
    parser.add_argument(
        "--cases",
        type=case,
        nargs="+",
        default=CASES,
        metavar="SOURCES:PARAGRAPHS",
        help="rows of table 2, such as word:1; 0 paragraphs are the passages",
    )
    parser.add_argument("--masks", type=int, default=128, help="ablations per response")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--keep", type=Path, help="a file of what was found, to go on after a stop")
    parser.add_argument("--flashtrace", type=Path, help="folder with the package")
    given = parser.parse_args(arguments)
    model, tokenizer = get_model_and_tokenizer(default.NAME, device="cpu", dtype=given.dtype)
    estimator = load_estimator(given.estimator)
    calibration = load_calibration(given.estimator)
    methods = [method_named(name) for name in given.methods.split(",")]
    if given.flashtrace is not None:
        methods.insert(2, flashtrace_method(given.flashtrace))
    given.out.mkdir(parents=True, exist_ok=True)
    asked = drawn(from_passages(), given.passages)
    if given.squad is not None:
        asked += from_squad(given.squad, HELD_OUT_ARTICLES, (1, 1, 2), given.articles)
    if asked:
        settings = EvaluationSettings(num_masks=given.masks)
        measured = examples(model, tokenizer, asked)
        found = summarise(
            results("all methods", measured, methods, estimator, settings, given.keep),
            settings=settings,
        )
        save(found, given.out)
        print(markdown(found), flush=True)
    if given.squad is not None and given.lengths:
        rows = lds_table(
            model,
            tokenizer,
            estimator,
            given.squad,
            given.lengths,
            given.masks,
            given.keep,
            given.cases,
            None if calibration is None else calibration.supported,
        )
        (given.out / "sources.md").write_text("\n".join(rows) + "\n", encoding="utf-8")
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "dtype": given.dtype,
    }
    (given.out / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
