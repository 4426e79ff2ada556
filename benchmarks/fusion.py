"""Weights of the signals that fusion adds up, and how often its first source is the right one.

`python -m benchmarks.fusion --squad FILE`: questions about articles 33 to 36 of a file in the
layout of SQuAD (XQuAD's English part) and about every other passage of the tests fit the weights;
those about articles 37 to 40 and the other passages are reported. The estimator was trained on none
of them. Responses are the model's own, greedy, and only right ones count. Asked are the span of the
answer and the whole response. The retriever is TF-IDF: a source's score is its cosine with the
question.

What counts is the order, so the weights are those of a conditional logit: a source is drawn with
probability `exp(Σ weight · share) / Σ over sources of the same`, and the weights, none below zero,
make it most likely that supporting ones are drawn. Divided by their sum they order alike. (Weights
of a mixture, by which a source is drawn in proportion to its fused share, give all to AT2: its
shares are nearly all or nothing, which says little about the order where it is wrong.)
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm.auto import tqdm

from at2.estimator.linear import LinearScoreEstimator, load_estimator
from at2.methods.at2 import AT2Attributor
from at2.methods.fusion import DEFAULT_WEIGHTS, SIGNALS, FusionAttributor
from at2.model import default
from at2.utils import get_model_and_tokenizer
from benchmarks.questions import Asked, from_passages, from_squad

FITTED_ARTICLES, REPORTED_ARTICLES = slice(32, 36), slice(36, 40)
_PARAGRAPHS = (1, 2)
_RIDGE = 1e-3
"""Times the square of the weights, so that spans which can all be told right have a best fit."""
_DRAWS = 10_000


@dataclass(frozen=True)
class Case:
    """One span of a right response.

    Attributes:
        shares: [signals, sources], in the order of `SIGNALS`.
        supports: [sources], True for those that hold the answer.
    """

    shares: NDArray[np.float64]
    supports: NDArray[np.bool_]


def cases_of(
    asked: Asked, model: Any, tokenizer: Any, estimator: LinearScoreEstimator
) -> tuple[Case, Case] | None:
    """The answer's span and the whole response; None where the response is not right."""
    task = asked.task(model, tokenizer)
    span = asked.answer_range(task.target)
    support = asked.supporting(task)
    if span is None or not support or task.num_sources < 2:
        return None
    attributor = AT2Attributor(task, estimator)
    fusion = FusionAttributor(attributor, retrieval_scores=_retrieved(asked.query, task.sources))
    supports = np.isin(np.arange(task.num_sources), list(support))
    whole = (0, len(task.target_ids))
    tokens = task.target_range_to_token_range(*span, relative=True)
    of_span, of_whole = (
        Case(np.array([fusion.fused(*one).shares[name] for name in SIGNALS]), supports)
        for one in (tokens, whole)
    )
    return of_span, of_whole


def _retrieved(query: str, sources: Sequence[str]) -> list[float]:
    matrix = TfidfVectorizer(sublinear_tf=True).fit_transform([query, *sources])
    return [float(score) for score in (matrix[1:] @ matrix[0].T).toarray()[:, 0]]


def ranking_weights(cases: Sequence[Case], signals: Sequence[str]) -> dict[str, float]:
    """The weights of some signals, which add up to 1."""
    chosen = [SIGNALS.index(name) for name in signals]
    given = [(case.shares[chosen], case.supports) for case in cases]

    def loss(weights: NDArray[np.float64]) -> float:
        total = 0.0
        for shares, supports in given:
            scores = weights @ shares
            total += logsumexp(scores) - logsumexp(scores[supports])
        return float(total / len(given) + _RIDGE * weights @ weights)

    found = minimize(loss, np.ones(len(chosen)), bounds=[(0, None)] * len(chosen)).x
    return dict(zip(signals, (float(weight) for weight in found / found.sum()), strict=True))


def hits(cases: Sequence[Case], weights: dict[str, float]) -> NDArray[np.bool_]:
    """Per case whether the first source holds the answer."""
    row = np.array([weights.get(name, 0.0) for name in SIGNALS])
    return np.array([bool(case.supports[np.argmax(row @ case.shares)]) for case in cases])


def interval(values: NDArray[Any]) -> tuple[float, float]:
    """95 % of the means of samples drawn with replacement."""
    drawn = np.random.default_rng(0).choice(values, (_DRAWS, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def report(
    title: str, cases: Sequence[tuple[Case, Case]], rows: dict[str, dict[str, float]]
) -> str:
    """A table of shares of right first sources, a row for each set of weights; the last column is
    the difference from the first row, question by question."""
    lines = [f"{title}: {len(cases)} right answers", ""]
    lines.append("| | span | whole | both, 95 % | more than the first, 95 % |")
    lines.append("|---|---:|---:|---:|---:|")
    first = None
    for name, weights in rows.items():
        span = hits([one for one, _ in cases], weights)
        whole = hits([one for _, one in cases], weights)
        both = (span.astype(float) + whole) / 2
        first = both if first is None else first
        low, high = interval(both)
        less, more = interval(both - first)
        lines.append(
            f"| {name} | {span.mean():.3f} ({span.sum()}) | {whole.mean():.3f} ({whole.sum()}) "
            f"| {both.mean():.3f} ({low:.2f} to {high:.2f}) "
            f"| {(both - first).mean():+.3f} ({less:+.2f} to {more:+.2f}) |"
        )
    return "\n".join([*lines, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fusion", description=__doc__)
    parser.add_argument("--squad", type=Path, required=True, help="a file in the layout of SQuAD")
    parser.add_argument("--count", type=int, default=60, help="questions of each four articles")
    parser.add_argument("--passages", type=int, default=40, help="questions of each half")
    parser.add_argument("--model", default=default.NAME)
    parser.add_argument("--estimator", default=str(default.ESTIMATOR_PATH))
    parser.add_argument("--keep", type=Path, help="a file of what was found, to go on after a stop")
    given = parser.parse_args(arguments)
    model, tokenizer = get_model_and_tokenizer(given.model, device="cpu")
    estimator = load_estimator(given.estimator)
    passages = from_passages()
    sets = {
        "fitted, articles": from_squad(given.squad, FITTED_ARTICLES, _PARAGRAPHS, given.count),
        "fitted, passages": _some(passages, 0, given.passages),
        "articles": from_squad(given.squad, REPORTED_ARTICLES, _PARAGRAPHS, given.count),
        "passages": _some(passages, 1, given.passages),
    }
    known = _read(given.keep)
    found: dict[str, list[tuple[Case, Case]]] = {title: [] for title in sets}
    for title, questions in sets.items():
        for one in tqdm(questions, desc=title):
            name = f"{title}: {one.query}"
            if name not in known:
                with torch.inference_mode():
                    known[name] = cases_of(one, model, tokenizer, estimator)
                _write(given.keep, name, known[name])
            cases = known[name]
            if cases is not None:
                found[title].append(cases)
    fitted = [
        case
        for title in sets
        if title.startswith("fitted")
        for both in found[title]
        for case in both
    ]
    rows = {name: {name: 1.0} for name in SIGNALS}
    for signals in (SIGNALS[:2], SIGNALS):
        rows[" + ".join(signals)] = ranking_weights(fitted, signals)
        print(" + ".join(signals), {k: round(w, 3) for k, w in rows[" + ".join(signals)].items()})
    rows["default, without retrieval"] = {name: DEFAULT_WEIGHTS[name] for name in SIGNALS[:2]}
    rows["default"] = dict(DEFAULT_WEIGHTS)
    reported = [title for title in sets if not title.startswith("fitted")]
    found["reported, all"] = [both for title in reported for both in found[title]]
    for title in found:
        print(report(title, found[title], rows), flush=True)


def _read(path: Path | None) -> dict[str, tuple[Case, Case] | None]:
    """What an earlier run found, by question."""
    if path is None or not path.exists():
        return {}
    known: dict[str, tuple[Case, Case] | None] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        values = json.loads(line)
        cases = [
            Case(np.array(one["shares"]), np.array(one["supports"])) for one in values["cases"]
        ]
        known[values["name"]] = (cases[0], cases[1]) if cases else None
    return known


def _write(path: Path | None, name: str, cases: tuple[Case, Case] | None) -> None:
    if path is None:
        return
    values = [
        {"shares": case.shares.tolist(), "supports": case.supports.tolist()} for case in cases or ()
    ]
    with path.open("a", encoding="utf-8") as file:
        print(json.dumps({"name": name, "cases": values}), file=file)


def _some(questions: Sequence[Asked], parity: int, count: int) -> list[Asked]:
    """Questions about every other passage: texts are in one half or the other."""
    documents = list(dict.fromkeys(question.documents for question in questions))
    half = [one for one in questions if documents.index(one.documents) % 2 == parity]
    order = np.random.default_rng(0).permutation(len(half))
    return [half[place] for place in order[:count]]


if __name__ == "__main__":
    main()
