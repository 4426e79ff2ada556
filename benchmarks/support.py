"""Whether support tells answers that came from the context from those that did not.

`python -m benchmarks.support --squad FILE --out FOLDER`: fits the thresholds of a model's verdicts
and counts their errors on other articles, then writes `support.json` for the folder of the model's
estimator. Questions are about the passages of the tests and about articles of XQuAD from the 33rd
on, none of which trained the default estimator. Three kinds of answers are measured, all of them
the model's own, greedy, and read again with a context:

- *from the context*: right answers, written from it;
- *from another text*: the same answers, read with the context of another article in its place;
- *without it*: what the model writes when it is asked without the context, unless it is right.

Thresholds are fitted on every other article and every other passage, and reported on the rest.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tqdm.auto import tqdm

from at2.estimator.identity import ModelIdentity
from at2.evaluation.support import measure_support
from at2.evaluation.verdicts import Calibration, Share, Verdict, fit_thresholds
from at2.model import default
from at2.tasks import Document, DocumentsContextAttributionTask
from at2.utils import get_model_and_tokenizer
from benchmarks.first_source import HELD_OUT_ARTICLES
from benchmarks.questions import Asked, from_passages, from_squad

FROM_CONTEXT = "from the context"
FROM_ANOTHER = "from another text"
WITHOUT = "without it"
KINDS = (FROM_CONTEXT, FROM_ANOTHER, WITHOUT)

TEXTS = "passages of the tests, and articles 33 to 40 of XQuAD: half for the fit, half held out"

_DIGITS = 3

BATCH = 8
"""Responses that are written together."""


@dataclass(frozen=True)
class Case:
    """A question, and the article or passage that it is about."""

    asked: Asked
    text: str


@dataclass(frozen=True)
class Measured:
    """The support of one statement, in nats a token.

    Attributes:
        text: the article or passage that was asked about.
        kind: where the statement comes from.
        statement: what it says.
        support: what the context that is read with it is worth.
    """

    text: str
    kind: str
    statement: str
    support: float


def cases(squad: Path | None, passages: int, articles: int) -> list[Case]:
    """So many questions about passages and about held-out articles, as many of each article."""
    found: list[Case] = []
    numbers: dict[tuple[Document, ...], int] = {}
    asked = from_passages()
    for one in asked[:: max(1, len(asked) // max(1, passages))][:passages]:
        number = numbers.setdefault(one.documents, len(numbers))
        found.append(Case(one, f"passage {number}"))
    if squad is not None:
        held_out = range(HELD_OUT_ARTICLES.start, HELD_OUT_ARTICLES.stop)
        for number in held_out:
            count = articles // len(held_out)
            for one in from_squad(squad, slice(number, number + 1), (1,), count):
                found.append(Case(one, f"article {number}"))
    return found


def is_for_fit(text: str) -> bool:
    """Whether a text is one of those that thresholds are fitted on."""
    return int(text.split()[-1]) % 2 == 0


def measure(model: Any, tokenizer: Any, given: Sequence[Case]) -> Iterator[Measured]:
    """The support of all three kinds of answers."""
    tasks = [case.asked.task(model, tokenizer) for case in given]
    without = [_without_context(task) for task in tasks]
    for group in (tasks, without):
        for start in tqdm(range(0, len(group), BATCH), "Writing"):
            DocumentsContextAttributionTask.batch_generate(group[start : start + BATCH])
    for number, (case, task, alone) in enumerate(
        zip(tqdm(given, "Measuring"), tasks, without, strict=True)
    ):
        answer = case.asked.answer_range(task.target)
        place = None if answer is None else _statement_at(task, answer[0])
        if place is not None:
            yield _measured(case, FROM_CONTEXT, task, place)
            other = _other_text(given, number)
            if other is not None:
                swapped = _read_with(task, other.asked.documents, task.target)
                yield _measured(case, FROM_ANOTHER, swapped, place)
        if alone.target.strip() and case.asked.answer_range(alone.target) is None:
            yield _measured(case, WITHOUT, _read_with(task, task.documents, alone.target), 0)


def _statement_at(task: DocumentsContextAttributionTask, character: int) -> int | None:
    """The statement that holds a character of the response; None for the number of a list."""
    places = (i for i, (start, end) in enumerate(task.statements) if start <= character < end)
    return next(places, None)


def _measured(
    case: Case, kind: str, task: DocumentsContextAttributionTask, statement: int
) -> Measured:
    (found,) = measure_support(task, [task.statements[statement]])
    return Measured(case.text, kind, found.text, found.support)


def _without_context(task: DocumentsContextAttributionTask) -> DocumentsContextAttributionTask:
    """The same question with no text above it."""
    return DocumentsContextAttributionTask(
        (Document(""),), task.query, task.model, task.tokenizer, task.generate_kwargs
    )


def _read_with(
    task: DocumentsContextAttributionTask, documents: Sequence[Document], response: str
) -> DocumentsContextAttributionTask:
    """A question with other documents and a response."""
    read = DocumentsContextAttributionTask(
        documents, task.query, task.model, task.tokenizer, source_type="document"
    )
    read.set_generation(response)
    return read


def _other_text(given: Sequence[Case], number: int) -> Case | None:
    """The next question about another text of the same half that does not hold the answer."""
    case = given[number]
    answer = case.asked.answer.lower()
    for other in [*given[number + 1 :], *given[:number]]:
        same_half = is_for_fit(other.text) == is_for_fit(case.text)
        same_kind = other.text.split()[0] == case.text.split()[0]
        holds = any(answer in document.text.lower() for document in other.asked.documents)
        if other.text != case.text and same_half and same_kind and not holds:
            return other
    return None


def calibrate(identity: ModelIdentity, measured: Sequence[Measured]) -> Calibration:
    """Thresholds fitted on one half of the texts, and the verdicts on the other half."""
    fit = {kind: _of(measured, kind, for_fit=True) for kind in KINDS}
    low, high = fit_thresholds(fit[FROM_CONTEXT], [fit[FROM_ANOTHER], fit[WITHOUT]])
    low, high = round(low, _DIGITS), round(high, _DIGITS)
    found = Calibration(identity, high, low, {})
    verdicts: dict[str, Any] = {}
    for kind in KINDS:
        values = _of(measured, kind, for_fit=False)
        counts = Counter(map(found.verdict, values))
        verdicts[kind] = {
            name: _rounded(Share.counted(counts[name], len(values))) for name in get_args(Verdict)
        }
    fitted = {kind: len(values) for kind, values in fit.items()}
    return Calibration(
        identity, high, low, {"on": TEXTS, "fitted_on": fitted, "held_out": verdicts}
    )


def _rounded(share: Share) -> dict[str, float]:
    return {name: round(value, _DIGITS) for name, value in vars(share).items()}


def _of(measured: Sequence[Measured], kind: str, *, for_fit: bool) -> list[float]:
    return [m.support for m in measured if m.kind == kind and is_for_fit(m.text) == for_fit]


def table(calibration: Calibration) -> str:
    """The verdicts on held-out texts as Markdown."""
    names = get_args(Verdict)
    lines = [
        f"supported from {calibration.supported} nats a token on, "
        f"from memory below {calibration.from_memory}",
        "",
        "| answers | held out | " + " | ".join(names) + " |",
        "|---" * (len(names) + 2) + "|",
    ]
    for kind, shares in calibration.measured["held_out"].items():
        cells = [shares[name] for name in names]
        shown = [f"{c['count']} [{c['low']:.2f}, {c['high']:.2f}]" for c in cells]
        lines.append(f"| {kind} | {cells[0]['of']} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.support", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/support"))
    parser.add_argument("--model", default=default.NAME)
    parser.add_argument("--squad", type=Path, help="a file in the layout of SQuAD")
    parser.add_argument("--passages", type=int, default=64, help="questions about passages")
    parser.add_argument("--articles", type=int, default=32, help="questions about articles")
    parser.add_argument("--dtype", default="float32", help="of the weights")
    given = parser.parse_args(arguments)
    model, tokenizer = get_model_and_tokenizer(given.model, device="cpu", dtype=given.dtype)
    asked = cases(given.squad, given.passages, given.articles)
    measured = list(measure(model, tokenizer, asked))
    calibration = calibrate(ModelIdentity.of(model, tokenizer), measured)
    calibration.save(given.out)
    rows = json.dumps([vars(each) for each in measured], indent=1, ensure_ascii=False)
    (given.out / "statements.json").write_text(rows + "\n", encoding="utf-8")
    print(table(calibration), flush=True)


if __name__ == "__main__":
    main()
