"""The training loop of the bundled network: curriculum, schedule, checkpoints, log.

Every step draws its batch from a generator seeded by the run's seed and the step's number, so a run
that is killed and started again goes on exactly where its last checkpoint was.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from transformers import PreTrainedTokenizerFast

from trainer_jobs.bundled.examine import exact_match
from trainer_jobs.bundled.network import Network, llama_config
from trainer_jobs.bundled.optimizer import Muon
from trainer_jobs.bundled.packing import Packer, sample_batch
from trainer_jobs.bundled.tokenizer import train_tokenizer
from trainer_jobs.bundled.world import World


@dataclass(frozen=True)
class Phase:
    """What the contexts of a stretch of the run are like.

    Attributes:
        until: the step at which the phase ends.
        sentences: how many a context has, from and to.
        dense: the share of contexts in which many subjects have the same relations.
        about: the share of questions that ask for everything about one subject.
    """

    until: int
    sentences: tuple[int, int]
    dense: float = 0.0
    about: float = 0.16


CURRICULUM = (
    Phase(150, (1, 3)),
    Phase(400, (2, 6)),
    Phase(900, (2, 10), dense=0.15),
    Phase(1600, (2, 20), dense=0.15),
    Phase(2600, (2, 20), dense=0.15, about=0.4),
    Phase(1_000_000, (2, 16), dense=0.15, about=0.5),
)
"""Short contexts first, where copying is learned; then longer ones. Some tell the same things of
many subjects, so that only subject and relation together find the answer. Questions about all
there is take longest to learn, so they get more room at the end."""

_CHECKPOINT_EVERY = 200
_EXAMINE_EVERY = 200


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on.

    Attributes:
        steps: updates in all.
        polish: updates, among these, of a second and gentler cycle at the end.
        tokens: tokens a batch, about.
        matrix_lr, other_lr: peak learning rates of Muon and of AdamW.
        warmup: updates of linear warm-up.
        decay: the share of the first cycle, at its end, over which the rates fall linearly to zero.
        polish_rate: where the rates of the second cycle start to fall, as a share of their peak.
        removal: the chance that a context hides half of its sentences.
        guidance: the weight of the loss that shows one head the supporting sentence and another
            the token to copy. Only training knows the sentences: nothing of it is shipped.
    """

    steps: int = 3400
    polish: int = 800
    tokens: int = 6144
    seed: int = 0
    matrix_lr: float = 0.015
    other_lr: float = 3e-3
    warmup: int = 100
    decay: float = 0.8
    polish_rate: float = 0.3
    removal: float = 0.25
    guidance: float = 0.1

    def rate(self, step: int) -> float:
        """The learning rate at `step` as a share of its peak."""
        first = self.steps - self.polish
        if step < first:
            return min(1.0, (step + 1) / self.warmup, (first - step) / (self.decay * first))
        rise, fall = (step - first + 1) / self.warmup, (self.steps - step) / self.polish
        return self.polish_rate * min(rise, fall)

    def phase(self, step: int) -> Phase:
        """What the contexts are like at `step`."""
        return next(phase for phase in CURRICULUM if step < phase.until)


class Trainer:
    """Owns the network, its optimizers and the folder they are saved in."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe = recipe
        self.folder = folder
        self.tokenizer: PreTrainedTokenizerFast = train_tokenizer()
        config = llama_config(
            len(self.tokenizer), self.tokenizer.pad_token_id, self.tokenizer.eos_token_id
        )
        self.network = Network(config, recipe.seed)
        matrices: list[torch.nn.Parameter] = []
        others: list[torch.nn.Parameter] = []
        for name, parameter in self.network.named_parameters():
            matrix = parameter.ndim == 2 and "embed" not in name
            (matrices if matrix else others).append(parameter)
        self.muon = Muon(matrices)
        self.adamw = torch.optim.AdamW(
            others, lr=recipe.other_lr, betas=(0.9, 0.98), weight_decay=0.0
        )
        self.step = 0
        self._forward = torch.compile(self.network, dynamic=True)
        self._packer = Packer(self.tokenizer)

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        """Write a checkpoint, whole or not at all."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "muon": self.muon.state_dict(),
            "adamw": self.adamw.state_dict(),
        }
        temporary = self._checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(self._checkpoint)

    def resume(self) -> bool:
        """Load the last checkpoint, if there is one."""
        if not self._checkpoint.exists():
            return False
        state: dict[str, Any] = torch.load(self._checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.muon.load_state_dict(state["muon"])
        self.adamw.load_state_dict(state["adamw"])
        self.step = state["step"]
        return True

    def _update(self) -> tuple[float, float]:
        rng = Random(f"{self.recipe.seed}:{self.step}")
        phase = self.recipe.phase(self.step)
        world = World(removal=self.recipe.removal, dense=phase.dense, about=phase.about)
        batch = sample_batch(self._packer, world, rng, phase.sentences, self.recipe.tokens)
        logits, targets, missed = self._forward(batch)
        loss = F.cross_entropy(logits, targets)
        (loss + self.recipe.guidance * missed).backward()
        rate = self.recipe.rate(self.step)
        for group in self.adamw.param_groups:
            group["lr"] = self.recipe.other_lr * rate
        self.adamw.step()
        self.muon.step(self.recipe.matrix_lr * rate)
        self.network.zero_grad(set_to_none=True)
        self.step += 1
        return loss.item(), missed.item()

    def run(self) -> Iterator[dict[str, Any]]:
        """Train to the end, yielding a record of loss and exact-match rates now and then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        losses: list[tuple[float, float]] = []
        started = time.monotonic()
        while self.step < self.recipe.steps:
            losses.append(self._update())
            if self.step % _CHECKPOINT_EVERY == 0 or self.step == self.recipe.steps:
                self.save()
            if self.step % 50 == 0:
                record: dict[str, Any] = {
                    "step": self.step,
                    "loss": round(mean(loss for loss, _ in losses), 4),
                    "missed": round(mean(missed for _, missed in losses), 4),
                    "seconds": round(time.monotonic() - started, 1),
                }
                losses.clear()
                if self.step % _EXAMINE_EVERY == 0:
                    record["exact"] = exact_match(self.network, self._packer)
                with (self.folder / "log.jsonl").open("a") as log:
                    log.write(json.dumps(record) + "\n")
                yield record
