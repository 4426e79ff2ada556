"""The third stage: weights whose predictions correlate with what ablations did.

Every step draws different examples and one target of each; Adam with cosine decay minimises the
negative Pearson correlation (Cohen-Wang, Chuang, Madry 2025, arXiv 2504.13752, section 3). Draws
come in the published order from one generator, which a checkpoint keeps: a run that was killed goes
on to the same bytes.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from at2.errors import InputError, TrainingError, check_count
from at2.estimator.linear import LinearScoreEstimator
from at2.files import Place, exists, local_copy
from at2.fingerprints import DIGITS
from at2.progress import Progress
from at2.training import manifest
from at2.training.heldout import HeldOut, measure
from at2.training.shards import check_seal, sealed, settings_of, write_file
from at2.training.table import FeatureTable

logger = logging.getLogger(__name__)

Sampling = Literal["examples", "instances"]
Loss = Callable[[Tensor, Tensor], Tensor]
Report = Callable[[int, Mapping[str, float]], None]
"""Gets the number of steps taken, and figures by name."""

_CORRELATION_EPSILON = 1e-8
_SEEDS = 2**32
"""Of numpy's generator."""


@dataclass(frozen=True)
class FitSettings:
    """How an estimator is fitted.

    Attributes:
        num_iterations: steps.
        learning_rate: Adam's, decayed to zero along a cosine.
        batch_size: targets a step, or all there are if they are fewer.
        max_grad_norm: longer gradients are cut to this length.
        sampling: whether a step draws different examples and a target of each, or targets of all.
        seed: of the draws.

    Raises:
        InputError: one is out of range.
    """

    num_iterations: int = 1_000
    learning_rate: float = 1e-3
    batch_size: int = 512
    max_grad_norm: float = 1.0
    sampling: Sampling = "examples"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sampling not in get_args(Sampling):
            raise InputError(
                f"unknown sampling method {self.sampling!r}: not one of examples, instances",
                param="sampling_method",
            )
        for name in ("num_iterations", "batch_size"):
            check_count(getattr(self, name), name)
        if not (isfinite(self.learning_rate) and self.learning_rate > 0):
            raise InputError(
                f"learning_rate is {self.learning_rate}, not a number above 0",
                param="learning_rate",
            )
        if not self.max_grad_norm > 0:
            raise InputError(
                f"max_grad_norm is {self.max_grad_norm}, not above 0", param="max_grad_norm"
            )
        if not 0 <= self.seed < _SEEDS:
            raise InputError(f"seed is {self.seed}, not between 0 and {_SEEDS - 1}", param="seed")


def pearson_loss(predictions: Tensor, outputs: Tensor) -> Tensor:
    """Negative Pearson correlation over masks, averaged over instances.

    An instance whose predictions or outputs are all the same has none: it counts 0, and adds
    nothing to the gradient.

    Args:
        predictions, outputs: [instances, masks].
    """
    predictions, outputs = _centred(predictions), _centred(outputs)
    covariance = (predictions * outputs).mean(dim=1)
    variances = predictions.square().mean(dim=1), outputs.square().mean(dim=1)
    defined = (variances[0] > 0) & (variances[1] > 0)
    # The root has no derivative at 0: what is left out must not pass through it even so.
    deviations = [
        variance.where(defined, torch.ones_like(variance)).sqrt() for variance in variances
    ]
    correlation = covariance / (deviations[0] * deviations[1] + _CORRELATION_EPSILON)
    return -correlation.where(defined, torch.zeros_like(correlation)).mean()


def _centred(values: Tensor) -> Tensor:
    """Values [instances, masks] less their mean: exactly 0 where they are all the same, which the
    mean, rounded, need not be."""
    constant = (values == values[:, :1]).all(dim=1, keepdim=True)
    return (values - values.mean(dim=1, keepdim=True)).masked_fill(constant, 0)


def rank_loss(predictions: Tensor, outputs: Tensor) -> Tensor:
    """`pearson_loss` with the ranks of the outputs in their place, equal ones sharing the mean of
    theirs: closer to LDS, which is a rank correlation, and less drawn to the few ablations that
    change most.

    With sentences as sources it was better, with tokens neither better nor worse
    (`docs/experiments.md`).

    Args:
        predictions, outputs: [instances, masks].
    """
    ordered = outputs.sort(dim=1).values
    below = torch.searchsorted(ordered, outputs.contiguous())
    up_to = torch.searchsorted(ordered, outputs.contiguous(), right=True)
    ranks = (below + up_to - 1) / 2
    return pearson_loss(predictions, ranks.to(predictions.dtype))


LOSSES: Mapping[str, Loss] = MappingProxyType({"pearson": pearson_loss, "rank": rank_loss})
"""By name. The first is the published one."""


@dataclass(frozen=True)
class Checkpoint:
    """Where an unfinished fit is kept.

    Attributes:
        path: the file.
        settings: fingerprint of everything that the weights depend on.
        every: steps between two checkpoints.
    """

    path: Place
    settings: str
    every: int

    def __post_init__(self) -> None:
        check_count(self.every, "checkpoint_every")

    def check_claim(self) -> None:
        """Make sure that the folder is still this fit's.

        Raises:
            TrainingError: a fit with other settings took it, before this one had left anything.
        """
        folder = self.path.parent
        claimed = settings_of(folder / manifest.FILE)
        if claimed is not None and claimed[:DIGITS] != self.settings:
            raise TrainingError(
                f"estimator {folder.name!r} was taken meanwhile by a training with other settings; "
                "train it under another save_name"
            )


@dataclass
class FitState:
    """Everything that the next step depends on.

    Attributes:
        estimator: the weights.
        optimizer, scheduler: Adam and the decay of its rate.
        random: where draws come from.
        losses: one per step taken.
        held_out: what was measured, by steps taken.
    """

    estimator: LinearScoreEstimator
    optimizer: torch.optim.Adam
    scheduler: torch.optim.lr_scheduler.CosineAnnealingLR
    random: np.random.RandomState
    losses: list[float]
    held_out: dict[int, HeldOut]

    @classmethod
    def begin(cls, estimator: LinearScoreEstimator, settings: FitSettings) -> "FitState":
        """The state before the first step."""
        optimizer = torch.optim.Adam(estimator.parameters(), lr=settings.learning_rate)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, T_max=settings.num_iterations
        )
        random = np.random.RandomState(settings.seed)
        return cls(estimator, optimizer, scheduler, random, [], {})

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, whole or not at all.

        Raises:
            TrainingError: it cannot be written, or the folder is another fit's by now.
        """
        checkpoint.check_claim()
        write_file(checkpoint.path, sealed(checkpoint.settings, self._to_bytes))

    def _to_bytes(self, seal: str) -> bytes:
        _, keys, position, has_gauss, gauss = self.random.get_state(legacy=True)
        tensors = {f"weights.{k}": v.detach() for k, v in self.estimator.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{number}.{name}": value for name, value in moments.items()}
        tensors["random"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        rest = {
            "random": [int(position), int(has_gauss), float(gauss)],
            "rates": [group["lr"] for group in self.optimizer.param_groups],
            "scheduler": self.scheduler.state_dict(),
            "held_out": {step: asdict(measured) for step, measured in self.held_out.items()},
        }
        content: bytes = safetensors_bytes(
            {name: tensor.cpu().contiguous() for name, tensor in tensors.items()},
            metadata={"at2": f"{seal} {json.dumps(rest)}"},
        )
        return content

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint if there is a whole one of the same fit."""
        if not exists(checkpoint.path):
            return
        try:
            check_seal(checkpoint.path, checkpoint.settings)
        except TrainingError as error:
            logger.warning("%s: starting from step 0", error)
            return
        with local_copy(checkpoint.path) as path, safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            rest = json.loads(file.metadata()["at2"].split(" ", 2)[2])
        self.estimator.load_state_dict(
            {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
        )
        state = self.optimizer.state_dict()
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, moment = name.split(".")
                state["state"].setdefault(int(number), {})[moment] = value
        self.optimizer.load_state_dict(state)
        self.scheduler.load_state_dict(rest["scheduler"])
        for group, rate in zip(self.optimizer.param_groups, rest["rates"], strict=True):
            group["lr"] = rate
        keys: NDArray[np.uint32] = tensors["random"].numpy().astype(np.uint32)
        self.random.set_state(("MT19937", keys, *rest["random"]))
        self.losses = tensors["losses"].tolist()
        self.held_out = {
            int(step): HeldOut(**measured) for step, measured in rest["held_out"].items()
        }


def fit(
    estimator: LinearScoreEstimator,
    table: FeatureTable,
    examples: Sequence[int],
    settings: FitSettings,
    *,
    device: torch.device,
    loss_fn: Loss = pearson_loss,
    held_out: Sequence[int] = (),
    print_every: int = 100,
    checkpoint: Checkpoint | None = None,
    report: Report | None = None,
) -> FitState:
    """Fit an estimator in place.

    Prints the mean loss since the last line at the first step and every `print_every`, and how the
    held-out examples fare, before the first step and after the last as well: with weights of 1/n,
    the former is average attention.

    Args:
        estimator: where to start, on `device`, in float32.
        table: the examples' rows.
        examples: which to train on; all with targets.
        device: what computes.
        loss_fn: of predictions and outputs [instances, masks].
        held_out: examples to report on.
        print_every: steps between two lines, at least 1.
        checkpoint: where to keep what is unfinished; it is left there when all is done.
        report: gets the loss and the learning rate of every step, and what is held out.

    Raises:
        TrainingError: a loss is not finite, or a checkpoint cannot be written.
    """
    state = FitState.begin(estimator, settings)
    if checkpoint is not None:
        state.resume(checkpoint)
    draw = partial(_draw_examples, table, np.asarray(examples))
    if settings.sampling == "instances":
        draw = partial(_draw_instances, np.concatenate([table.rows_of(i) for i in examples]))
    with Progress(settings.num_iterations, "Training score estimator") as progress:
        progress.count_existing(len(state.losses))
        if state.losses:
            progress.print(f"Resuming after step {len(state.losses) - 1}")
        elif held_out:
            state.held_out[0] = measure(estimator, table, held_out, device)
            progress.print(f"Held out: {state.held_out[0]}")
        for step in range(len(state.losses), settings.num_iterations):
            rows = draw(settings.batch_size, state.random)
            features, outputs = table.batch(rows)
            figures = {"loss": 0.0, "learning_rate": state.optimizer.param_groups[0]["lr"]}
            state.optimizer.zero_grad()
            predictions = estimator(features.to(device, torch.float32))[:, :, 0]
            loss = loss_fn(predictions, outputs.to(device, torch.float32))
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(estimator.parameters(), settings.max_grad_norm)
            state.optimizer.step()
            state.scheduler.step()
            state.losses.append(loss.item())
            if not np.isfinite(state.losses[-1]):
                raise TrainingError(f"the loss of step {step} is {state.losses[-1]}")
            figures["loss"] = state.losses[-1]
            estimator.project_parameters()
            progress.update()
            if step == 0 or (step + 1) % print_every == 0:
                since = 0 if step == 0 else max(1, step + 1 - print_every)
                progress.print(f"Step {step}: loss={np.mean(state.losses[since:]):.4g}")
            last = step + 1 == settings.num_iterations
            if held_out and (last or (step > 0 and (step + 1) % print_every == 0)):
                measured = state.held_out[step + 1] = measure(estimator, table, held_out, device)
                progress.print(f"Held out: {measured}")
                figures |= {
                    f"held_out/{k}": v for k, v in measured.to_dict().items() if v is not None
                }
            if report is not None:
                report(step + 1, figures)
            if checkpoint is not None and (step + 1) % checkpoint.every == 0:
                state.save(checkpoint)
    estimator.finalize_parameters()
    return state


def _draw_examples(
    table: FeatureTable, examples: NDArray[np.int64], count: int, random: np.random.RandomState
) -> NDArray[np.int64]:
    """Rows of one target each of different examples."""
    chosen = random.choice(examples, min(count, len(examples)), replace=False)
    return np.array(
        [table.starts[i] + random.randint(table.counts[i]) for i in chosen], dtype=np.int64
    )


def _draw_instances(
    rows: NDArray[np.int64], count: int, random: np.random.RandomState
) -> NDArray[np.int64]:
    """Different rows, whatever example they are of."""
    return rows[random.choice(len(rows), min(count, len(rows)), replace=False)]
