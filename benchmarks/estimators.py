"""How good estimators get by what they are trained on, and other ways to fit them.

`python -m benchmarks.estimators --out docs/quality`: the published recipe (Pearson correlation,
Adam, weights that start at 1/n) by the number of examples and of ablations each; then what might do
better with the same features and ablations, with the root of attention as well, or with attention
times the length of the value vectors; then how estimators of short and of longer contexts do in
contexts of other lengths. All are judged on questions about names that neither the model nor any
estimator was trained on, by LDS: the rank correlation of predicted and measured outputs over 32
ablations of tokens or of sentences. Differences have 95 % intervals from a bootstrap over examples.
`--model FOLDER` takes another Llama.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from at2 import AT2Trainer, LinearScoreEstimator
from at2.estimator.features import AttentionFeatureExtractor
from at2.metrics import spearman
from at2.model.ablation import sample_masks
from at2.model.attention import source_features
from at2.seeds import TRAINING_SEEDS
from at2.tasks import AttributionTask
from at2.training.compute import KEEP_PROBABILITY, NUM_MASKS
from at2.training.fit import FitSettings, fit, pearson_loss, rank_loss
from at2.training.heldout import measure
from at2.training.table import FeatureTable
from at2.utils import get_model_and_tokenizer
from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.questions import Asked, ask, task_of

LEVELS = ("token", "sentence")
EXPONENTS = (1.0, 0.5)
"""Of the features that are gathered: attention, which all but one of the ways to fit use, and its
root."""
EXAMPLES = (25, 50, 100, 200, 400)
MASKS = (8, 16, 32)
_SENTENCES = (4, 16)
_LONG = (4, 40)
_LENGTHS = ((4, 16), (17, 28), (29, 40))
_HELD_OUT = 100
_KINDS = frozenset({"single", "about"})
_SEED = 7
_HELD_OUT_SEED = 4_000_037  # apart from the seeds of training and of the bundled model's report
_RESAMPLES = 2_000
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Data:
    """Features and outputs of one level of sources.

    Attributes:
        table: of all examples, in memory.
        train, held_out: the examples with targets.
        tasks: gives the task of an example, with its response.
        extractor: of the model.
    """

    table: FeatureTable
    train: list[int]
    held_out: list[int]
    tasks: Callable[[int], AttributionTask]
    extractor: AttentionFeatureExtractor

    def parts(self, examples: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Features [targets, masks, features] and outputs [targets, masks], float32."""
        found = [self.table.example(example) for example in examples]
        features, outputs = zip(*found, strict=True)
        return torch.cat(features).float(), torch.cat(outputs).float()

    def plain(self) -> "Data":
        """The same with attention alone as features."""
        own = self.extractor
        plain = AttentionFeatureExtractor(own.num_layers, own.num_heads)
        data = self.with_features(lambda features: features[..., : plain.num_features])
        return replace(data, extractor=plain)

    def with_features(self, change: Callable[[Tensor], Tensor]) -> "Data":
        """The same with other features [rows, masks, features]."""
        features, outputs = self.table.batch(np.arange(sum(self.table.counts)))
        table = FeatureTable([(change(features.float()), outputs)], self.table.counts)
        return Data(table, self.train, self.held_out, self.tasks, self.extractor)


def gather(
    model: Any,
    tokenizer: Any,
    folder: Path,
    level: str,
    *,
    train: int = EXAMPLES[-1],
    held_out: int = _HELD_OUT,
    sentences: tuple[int, int] = _SENTENCES,
) -> Data:
    """Compute features and outputs, or go on with those that a folder has.

    Args:
        level: what the sources are.
        train, held_out: how many questions; their names are others.
        sentences: how many a context has, from and to.
    """

    def task(example: Asked, model: Any, tokenizer: Any) -> AttributionTask:
        return task_of(example, model, tokenizer, level)

    questions = partial(ask, sentences=sentences, kinds=_KINDS)
    asked = list(questions(train, seed=_SEED, names=NameSource()))
    asked += questions(held_out, seed=_HELD_OUT_SEED, names=NameSource(held_out=True))
    extractor = AttentionFeatureExtractor.from_model(model, EXPONENTS)
    trainer = AT2Trainer(folder, asked, model, tokenizer, task, extractor)
    trainer.generate(batch_size=16)
    trainer.compute_features_and_outputs()
    table = trainer.load_table().gathered(_CPU)
    used = [example for example in range(len(asked)) if table.counts[example]]
    return Data(
        table,
        [example for example in used if example < train],
        [example for example in used if example >= train],
        trainer.get_task,
        trainer.feature_extractor,
    )


# -- by training data ------------------------------------------------------------------------------


def growth(data: Data) -> list[str]:
    """Held-out correlation and LDS by examples and ablations per example, as a table."""

    def row(count: int, masks: int, estimator: LinearScoreEstimator) -> str:
        found = measure(estimator, data.table, data.held_out, _CPU)
        return f"| {count} | {masks} | {found.correlation:.3f} | {found.lds:.3f} |"

    lines = ["| examples | ablations each | correlation | LDS |", "|---:|---:|---:|---:|"]
    lines.append(row(0, 0, LinearScoreEstimator(data.extractor)))
    for count, masks in [
        *((n, MASKS[-1]) for n in EXAMPLES),
        *((EXAMPLES[-1], m) for m in MASKS[:-1]),
    ]:
        features, outputs = data.table.batch(np.arange(sum(data.table.counts)))
        table = FeatureTable([(features[:, :masks], outputs[:, :masks])], data.table.counts)
        estimator = LinearScoreEstimator(data.extractor)
        some = data.train[:count]
        fit(
            estimator,
            table,
            some,
            FitSettings(),
            device=_CPU,
            print_every=FitSettings.num_iterations,
        )
        lines.append(row(count, masks, estimator))
    return lines


# -- other ways to fit -----------------------------------------------------------------------------

Weights = Tensor
"""One weight per feature, float32 [features]."""


def published(data: Data, train: Sequence[int], **settings: Any) -> Weights:
    """The published recipe, with other settings where some are given."""
    non_negative = settings.pop("non_negative", False)
    loss = settings.pop("loss", pearson_loss)
    estimator = LinearScoreEstimator(data.extractor, non_negative=non_negative)
    how = FitSettings(**settings)
    fit(
        estimator, data.table, train, how, device=_CPU, loss_fn=loss, print_every=how.num_iterations
    )
    return estimator.linear.weight.detach()[0]


def average(data: Data, train: Sequence[int]) -> Weights:
    """Average attention: nothing is trained."""
    return torch.full((data.extractor.num_features,), 1 / data.extractor.num_features)


def early_stopped(data: Data, train: Sequence[int]) -> Weights:
    """The published recipe, with as many steps as do best on a fifth of the examples."""
    inner, rest = _split(train)
    found = [
        (_mean_lds(data, published(data, inner, num_iterations=steps), rest), steps)
        for steps in (10, 30, 100, 300, 1000)
    ]
    return published(data, train, num_iterations=max(found)[1])


def scaled(data: Data, train: Sequence[int]) -> Weights:
    """The published recipe on features of unit variance: every head counts alike at the start."""
    features, _ = data.parts(train)
    spread = (features - features.mean(1, keepdim=True)).std((0, 1)).clamp_min(1e-6)
    return published(data.with_features(lambda all_: all_ / spread), train) / spread


def ridge(data: Data, train: Sequence[int]) -> Weights:
    """Least squares in closed form, outputs centred and scaled for each target, with a penalty on
    the distance from zero chosen on a fifth of the examples."""

    def solved(examples: Sequence[int], penalty: float) -> Weights:
        features, outputs = data.parts(examples)
        features = features - features.mean(1, keepdim=True)
        outputs = outputs - outputs.mean(1, keepdim=True)
        outputs = outputs / outputs.norm(dim=1, keepdim=True).clamp_min(1e-6)
        x, y = features.flatten(0, 1).double(), outputs.flatten().double()
        gram = x.T @ x
        gram += penalty * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
        return torch.linalg.solve(gram, x.T @ y).float()

    inner, rest = _split(train)
    found = [
        (_mean_lds(data, solved(inner, penalty), rest), penalty)
        for penalty in (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
    ]
    return solved(train, max(found)[1])


def sparse(data: Data, train: Sequence[int]) -> Weights:
    """The published recipe, then again with the best quarter of the heads only."""
    first = published(data, train)
    features, _ = data.parts(train)
    spread = (features - features.mean(1, keepdim=True)).std((0, 1))
    best = (first * spread).abs().topk(len(first) // 4).indices
    kept = torch.zeros_like(first)
    kept[best] = 1
    return published(data.with_features(lambda all_: all_ * kept), train) * kept


def averaged(data: Data, train: Sequence[int]) -> Weights:
    """Five estimators, each of half of the examples, averaged."""
    random = np.random.RandomState(0)
    halves = [random.choice(train, len(train) // 2, replace=False) for _ in range(5)]
    each = [published(data, half.tolist(), seed=seed) for seed, half in enumerate(halves)]
    return torch.stack(each).mean(0)


def towards_average(data: Data, train: Sequence[int]) -> Weights:
    """Between the published recipe's weights and 1/n, where a fifth of the examples does best."""
    inner, rest = _split(train)
    trained, untrained = published(data, inner), average(data, inner)
    found = [
        (_mean_lds(data, (1 - share) * trained + share * untrained, rest), share)
        for share in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
    ]
    share = max(found)[1]
    return (1 - share) * published(data, train) + share * untrained


FITS: dict[str, Callable[[Data, Sequence[int]], Weights]] = {
    "published recipe": published,
    "average attention": average,
    "rate 1e-2": partial(published, learning_rate=1e-2),
    "4,000 steps": partial(published, num_iterations=4_000),
    "early stopping": early_stopped,
    "non-negative": partial(published, non_negative=True),
    "per-head scale": scaled,
    "ridge, closed form": ridge,
    "a quarter of the heads": sparse,
    "five averaged": averaged,
    "towards average attention": towards_average,
    "ranks of outputs": partial(published, loss=rank_loss),
}


def value_lengths(model: Any, ids: Sequence[int]) -> Tensor:
    """Lengths of the value vectors of a Llama, [tokens, layers × heads]."""
    config = model.config
    found: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        per_head = output[0].view(len(ids), config.num_key_value_heads, -1).norm(dim=-1)
        groups = config.num_attention_heads // config.num_key_value_heads
        found.append(per_head.repeat_interleave(groups, dim=1))

    hooks = [layer.self_attn.v_proj.register_forward_hook(keep) for layer in model.model.layers]
    try:
        with torch.no_grad():
            model.model(torch.tensor([list(ids)]))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(found, dim=1)


def by_value_lengths(model: Any, data: Data) -> Data:
    """The same examples with attention times the length of the value vectors as features."""
    rows = []
    for example in range(len(data.table.counts)):
        if not data.table.counts[example]:
            continue
        task = data.tasks(example)
        targets = task.get_sub_target_token_ranges(split_by="sentence")
        tokens = [(place, place + 1) for place in range(task.target_token_range[0])]
        features = source_features(model, task.token_ids, targets, tokens)
        features = features * value_lengths(model, task.token_ids)[: len(tokens)]
        sources = [features[:, a:b].sum(1) for a, b in task.source_token_ranges]
        masks = sample_masks(NUM_MASKS, len(sources), KEEP_PROBABILITY, seed=TRAINING_SEEDS.start)
        signs = torch.from_numpy(masks).float() * 2 - 1
        rows.append(torch.einsum("ms,stf->tmf", signs, torch.stack(sources)))
    return data.with_features(lambda _: torch.cat(rows))


def _split(train: Sequence[int]) -> tuple[list[int], list[int]]:
    """Four fifths and one."""
    return [e for i, e in enumerate(train) if i % 5], list(train[::5])


def _lds(data: Data, weights: Weights, examples: Sequence[int]) -> list[NDArray[np.float64]]:
    """LDS of every target that varies, by example."""
    found = []
    for example in examples:
        features, outputs = data.table.example(example)
        predicted = (features.float() @ weights).numpy()
        measured = outputs.numpy()
        found.append(
            np.array(
                [
                    spearman(p, m) or 0.0
                    for p, m in zip(predicted, measured, strict=True)
                    if np.ptp(m)
                ]
            )
        )
    return found


def _mean_lds(data: Data, weights: Weights, examples: Sequence[int]) -> float:
    return float(np.concatenate(_lds(data, weights, examples)).mean())


def _difference(
    ours: Sequence[NDArray[np.float64]], base: Sequence[NDArray[np.float64]]
) -> tuple[float, float, float]:
    """The mean difference over targets, and its interval from examples drawn again."""
    sums = np.array([float((a - b).sum()) for a, b in zip(ours, base, strict=True)])
    counts = np.array([len(a) for a in ours])
    draws = np.random.RandomState(0).randint(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(sums.sum() / counts.sum()), float(low), float(high)


def compare(model: Any, rooted: dict[str, Data]) -> list[str]:
    """Every way to fit, trained at each level, judged at each: LDS and differences, as a table.

    Args:
        rooted: by level, with roots among the features.
    """
    by_level = {level: data.plain() for level, data in rooted.items()}
    columns = [("token", "token"), ("token", "sentence"), ("sentence", "sentence")]
    lines = [
        "| | " + " | ".join(f"trained on {a}s, LDS of {b}s" for a, b in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    valued = {level: by_value_lengths(model, data) for level, data in by_level.items()}
    ways = [(name, fit_, by_level) for name, fit_ in FITS.items()]
    ways.append(("value lengths", published, valued))
    ways.append(("value lengths, average attention", average, valued))
    ways.append(("roots as well", published, rooted))
    ways.append(("roots as well, ranks of outputs", partial(published, loss=rank_loss), rooted))
    base: list[list[NDArray[np.float64]]] = []
    for name, way, datas in ways:
        weights = {level: way(data, data.train) for level, data in datas.items()}
        cells = []
        for place, (trained, judged) in enumerate(columns):
            data = datas[judged]
            found = _lds(data, weights[trained], data.held_out)
            mean = float(np.concatenate(found).mean())
            if place == len(base):
                base.append(found)
                cells.append(f"{mean:.3f}")
                continue
            by, low, high = _difference(found, base[place])
            cells.append(f"{mean:.3f} ({by:+.3f} [{low:+.3f}, {high:+.3f}])")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def by_length(trained: dict[str, Data], judged: dict[str, Data]) -> list[str]:
    """Estimators trained on contexts of some lengths, judged on those of others, as a table.

    Args:
        trained, judged: by what they are called, with roots among the features.
    """
    lines = [
        "| trained on | | " + " | ".join(f"LDS of {name}" for name in judged) + " |",
        "|---|---" + "|---" * len(judged) + "|",
    ]
    ways: dict[str, tuple[Callable[[Data, Sequence[int]], Weights], bool]] = {
        "published recipe": (published, False),
        "non-negative": (partial(published, non_negative=True), False),
        "roots as well": (published, True),
    }
    plain = {name: data.plain() for name, data in judged.items()}
    base = [_lds(data, average(data, data.train), data.held_out) for data in plain.values()]
    means = (float(np.concatenate(found).mean()) for found in base)
    lines.append("| nothing | average attention | " + " | ".join(f"{m:.3f}" for m in means) + " |")
    for name, data in trained.items():
        for way, (fit_, roots) in ways.items():
            weights = fit_(data if roots else data.plain(), data.train)
            cells = []
            for place, one in enumerate((judged if roots else plain).values()):
                found = _lds(one, weights, one.held_out)
                by, low, high = _difference(found, base[place])
                mean = float(np.concatenate(found).mean())
                cells.append(f"{mean:.3f} ({by:+.3f} [{low:+.3f}, {high:+.3f}])")
            lines.append(f"| {name} | {way} | " + " | ".join(cells) + " |")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimators", description=__doc__)
    parser.add_argument("--model", default="bundled", help="folder of a Llama, or `bundled`")
    parser.add_argument("--work", type=Path, default=Path("outputs/estimators"), help="features")
    parser.add_argument("--out", type=Path, help="folder for estimators.md")
    given = parser.parse_args(arguments)
    disable_progress_bar()
    model, tokenizer = get_model_and_tokenizer(given.model, device="cpu")
    by_level = {level: gather(model, tokenizer, given.work / level, level) for level in LEVELS}
    sections = {f"By training data, {level}s": growth(by_level[level].plain()) for level in LEVELS}
    sections["Other ways to fit, differences from the first row"] = compare(model, by_level)
    long = gather(
        model, tokenizer, given.work / "long", "token", train=200, held_out=0, sentences=_LONG
    )
    judged = {
        f"{low}–{high} sentences": gather(
            model,
            tokenizer,
            given.work / f"judged-{low}-{high}",
            "sentence",
            train=0,
            held_out=60,
            sentences=(low, high),
        )
        for low, high in _LENGTHS
    }
    trained = {"4–16 sentences": by_level["token"], "4–40 sentences": long}
    sections["By the length of the contexts, tokens in training"] = by_length(trained, judged)
    text = "\n".join(
        f"**{title}**\n\n" + "\n".join(rows) + "\n" for title, rows in sections.items()
    )
    print(text)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "estimators.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
