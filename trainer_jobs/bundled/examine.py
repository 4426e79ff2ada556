"""Exact-match rates on names that training never saw, from one forward pass a batch.

Every answer token being the most likely one, given the right answer so far, is the same as greedy
decoding giving exactly that answer, and costs no decoding.
"""

from random import Random

import torch

from trainer_jobs.bundled.names import NameSource
from trainer_jobs.bundled.network import Network
from trainer_jobs.bundled.packing import Packer
from trainer_jobs.bundled.world import World

_SEED = 1_000_003
"""Apart from every seed that training uses."""


@torch.no_grad()
def exact_match(
    network: Network,
    packer: Packer,
    *,
    contexts: int = 16,
    sizes: tuple[int, ...] = (3, 8, 16),
    style: str = "mixed",
    held_out_phrasings: bool = False,
) -> dict[str, float]:
    """Share of exactly right answers by kind of question and number of context sentences."""
    world = World(NameSource(held_out=True, style=style), held_out_phrasings)
    rates: dict[str, float] = {}
    for size in sizes:
        rng = Random(f"{_SEED}:{size}")
        examples = [world.example(rng, size, 12) for _ in range(contexts)]
        batch = packer.batch(examples)
        logits, targets, _ = network(batch)
        right = logits.argmax(-1) == targets
        kinds: dict[str, list[bool]] = {}
        start = 0
        for question in (q for example in examples for q in example.questions):
            length = len(packer.ids(question.answer)) + 1
            kinds.setdefault(question.kind, []).append(bool(right[start : start + length].all()))
            start += length
        for kind, outcomes in sorted(kinds.items()):
            rates[f"{kind}@{size}"] = round(sum(outcomes) / len(outcomes), 3)
    return rates
