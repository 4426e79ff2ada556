"""Ways to train an estimator, compared on examples that none of them is fitted to.

`python -m benchmarks.estimators --squad FILE --out FOLDER`: features, ablations of sentences and
ablations of tokens of questions about articles 1 to 28 of XQuAD; then every way of fitting, judged
by LDS and by the first source on articles 29 to 32. What is computed is kept in the folder.

Features are attention of the target (`target`), that less the query's (`contrast`), or both side by
side (`both`): weights of their own for the target and for the query.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from at2.metrics import linear_datamodeling_score
from at2.model.ablation import (
    Ablations,
    ablated_logit_probs_of_many,
    aggregate_logit_probs,
    sample_masks,
    sequence_log_probs,
)
from at2.model.attention import source_features
from at2.seeds import EVALUATION_SEEDS, TRAINING_SEEDS
from at2.training.fit import LOSSES
from at2.utils import get_model_and_tokenizer
from benchmarks.questions import Asked, from_squad

TRAIN_ARTICLES, CHECK_ARTICLES = slice(0, 28), slice(28, 32)
PARAGRAPHS = (1, 1, 2, 2, 3)
NUM_MASKS, CHECK_MASKS = 32, 48
FEATURES = ("target", "contrast", "both")


@dataclass(frozen=True)
class Measured:
    """What is known of one example.

    Attributes:
        features: [targets + 1, sentences, features], the last of the query; targets are the
            statements, the whole response and, where the response is right, the answer.
        statements: number of statements.
        masks, log_probs: ablations of sentences [masks, sentences] and, per statement, the logits
            of its tokens.
        token_features: [statements + 1, masks, features] under ablations of tokens, or None.
        token_logits: the logits under them.
        support: the sentence with the answer, or -1.
    """

    features: Tensor
    statements: int
    masks: Tensor
    logits: list[Tensor]
    token_features: Tensor | None
    token_logits: list[Tensor]
    support: int


def measure(asked: Asked, model: Any, tokenizer: Any, check: bool) -> Measured | None:
    """Run the model on an example; None if its response has no sentence."""
    task = asked.task(model, tokenizer)
    target = task.target_token_range
    statements = task.get_sub_target_token_ranges("sentence")
    if not statements or task.num_sources < 2:
        return None
    ranges = [*statements, target]
    span, holds = asked.answer_range(task.target), asked.supporting(task)
    if span is not None and len(holds) == 1:
        ranges.append(task.target_range_to_token_range(*span))
    start, end = task.query_token_range
    query = (start + 1, end + 1)  # the tokens that the query's positions predict
    features = source_features(model, task.marked_tokens, [*ranges, query])
    seeds, count = (EVALUATION_SEEDS, CHECK_MASKS) if check else (TRAINING_SEEDS, NUM_MASKS)
    masks = sample_masks(count, task.num_sources, 0.5, seeds.start)
    work = [Ablations(task.marked_tokens, masks)]
    token_features = None
    if not check:
        tokens = asked.task(model, tokenizer, "token")
        tokens.set_generation_ids(task.generation_ids)
        token_masks = sample_masks(count, tokens.num_sources, 0.5, seeds.start)
        work.append(Ablations(tokens.marked_tokens, token_masks))
        signs = torch.from_numpy(token_masks).float() * 2 - 1
        token_features = source_features(
            model, tokens.marked_tokens, [*statements, query], source_weights=signs
        )
    found = [torch.tensor(logits) for logits in ablated_logit_probs_of_many(model, work)]
    cut = [[one[:, s - target[0] : e - target[0]] for s, e in statements] for one in found]
    return Measured(
        features,
        len(statements),
        torch.from_numpy(masks),
        cut[0],
        token_features,
        cut[1] if len(cut) > 1 else [],
        next(iter(holds)) if len(ranges) > len(statements) + 1 else -1,
    )


def kind_of(target: Tensor, query: Tensor, kind: str) -> Tensor:
    """Features of a kind from those of a target and of the query."""
    if kind == "target":
        return target
    contrast = target - query
    return contrast if kind == "contrast" else torch.cat([contrast, query], -1)


def rows(examples: Sequence[Measured], ablated: str, kind: str) -> tuple[Tensor, Tensor]:
    """Features [rows, masks, features] and outputs [rows, masks] to fit to."""
    inputs, outputs = [], []
    for one in examples:
        signs = one.masks.float() * 2 - 1
        for place in range(one.statements):
            if ablated == "sentences":
                row = signs @ kind_of(one.features[place], one.features[-1], kind)
                logits = one.logits[place]
            elif one.token_features is not None:
                row = kind_of(one.token_features[place], one.token_features[-1], kind)
                logits = one.token_logits[place]
            else:
                continue
            output = torch.from_numpy(aggregate_logit_probs(logits.numpy())).float()
            if output.isfinite().all() and output.max() > output.min():
                inputs.append(row)
                outputs.append(output)
    return torch.stack(inputs), torch.stack(outputs)


def fit(
    sets: Sequence[tuple[Tensor, Tensor]], loss: str = "pearson", non_negative: bool = False
) -> Tensor:
    """Weights [features], by the published recipe with all rows in each step."""
    count = sets[0][0].shape[-1]
    weights = torch.full((count,), 1 / count, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=1e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1_000)
    total = sum(len(outputs) for _, outputs in sets)
    for _ in range(1_000):
        optimizer.zero_grad()
        parts = [LOSSES[loss](x @ weights, y) * (len(y) / total) for x, y in sets]
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([weights], 1.0)
        optimizer.step()
        scheduler.step()
        if non_negative:
            with torch.no_grad():
                weights.clamp_(min=0)
    return weights.detach()


def judge(examples: Sequence[Measured], score: Callable[[Tensor, Tensor], Tensor]) -> str:
    """LDS over statements, and how often the first source is right for span and whole response."""
    found, span, whole = [], [], []
    for one in examples:
        query = one.features[-1]
        for place in range(one.statements):
            log_probs = sequence_log_probs(one.logits[place].numpy())
            scores = score(one.features[place], query).numpy()
            value = linear_datamodeling_score(scores, one.masks.numpy(), log_probs)
            if value is not None:
                found.append(value)
        if one.support >= 0:
            whole.append(int(score(one.features[one.statements], query).argmax()) == one.support)
            span.append(int(score(one.features[one.statements + 1], query).argmax()) == one.support)
    return (
        f"{np.mean(found):.3f} ({len(found)}) | {sum(span)} of {len(span)} | "
        f"{sum(whole)} of {len(whole)}"
    )


def collect(folder: Path, name: str, questions: Sequence[Asked], check: bool) -> list[Measured]:
    """Every example measured, those in the folder read from it."""
    folder.mkdir(parents=True, exist_ok=True)
    loaded: tuple[Any, Any] | None = None
    found = []
    for number, asked in enumerate(tqdm(questions, desc=name)):
        path = folder / f"{name}-{number:04d}.pt"
        if not path.exists():
            loaded = loaded or get_model_and_tokenizer(device="cpu", dtype="bfloat16")
            one = measure(asked, *loaded, check)
            torch.save({} if one is None else vars(one), path)
        kept = torch.load(path, weights_only=True)
        if kept:
            found.append(Measured(**kept))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, fit and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__)
    parser.add_argument("--squad", type=Path, required=True, help="a file in the layout of SQuAD")
    parser.add_argument("--out", type=Path, default=Path("outputs/estimators"))
    parser.add_argument("--train", type=int, default=25, help="examples to fit to")
    parser.add_argument("--check", type=int, default=60, help="examples to judge by")
    given = parser.parse_args(arguments)
    train, check = (
        collect(given.out, name, from_squad(given.squad, articles, PARAGRAPHS, count), last)
        for name, articles, count, last in (
            ("train", TRAIN_ARTICLES, given.train, False),
            ("check", CHECK_ARTICLES, given.check, True),
        )
    )
    print("| features | ablated | fitted by | LDS | span | whole |\n|---|---|---|---:|---:|---:|")
    for kind in ("target", "contrast"):
        plain = judge(check, lambda t, q, kind=kind: kind_of(t, q, kind).mean(-1))  # type: ignore[misc]
        print(f"| {kind} | | not at all | {plain} |", flush=True)
    for kind in FEATURES:
        sentences, tokens = rows(train, "sentences", kind), rows(train, "tokens", kind)
        for ablated, sets in (
            ("sentences", [sentences]),
            ("tokens", [tokens]),
            ("both", [sentences, tokens]),
        ):
            for name, options in (
                ("correlation", {}),
                ("ranks", {"loss": "rank"}),
                ("correlation, weights ≥ 0", {"non_negative": True}),
            ):
                weights = fit(sets, **options)
                found = judge(check, lambda t, q, w=weights, kind=kind: kind_of(t, q, kind) @ w)  # type: ignore[misc]
                print(f"| {kind} | {ablated} | {name} | {found} |", flush=True)


if __name__ == "__main__":
    main()
