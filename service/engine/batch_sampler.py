"""How the rows of a step become tokens, in the terms of transformers' continuous batching."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)

from service.engine.sampling import Draw, Sampling, choose, key_at


@dataclass(frozen=True)
class DrawSettings:
    """What travels with a request that is drawn."""

    sampling: Sampling
    seed: int


class Sampler(ContinuousBatchingLogitsProcessor):  # type: ignore[misc]  # it has no types
    """Leaves only the drawn token in rows that are drawn; the loop then takes the best of each row.

    Greedy rows are not touched.
    """

    supported_kwargs: dict[str, type] = {"draw": DrawSettings}  # noqa: RUF012 (as its base has it)
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._draws: list[Draw] = []
        self.watch: Callable[[Tensor], None] | None = None

    def fill_defaults(self, int32_tensor: Tensor) -> None:
        """Nothing travels in the tensor: batches are prepared and run in turn, by one thread."""
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> Tensor:
        """Note which rows of the next batch are drawn, and how."""
        draws = []
        for row, request in enumerate(requests_with_new_token):
            state = request.state
            settings: DrawSettings | None = state.logit_processor_kwargs.get("draw")
            if settings is not None:
                # All ids so far: a request that was taken out of the cache comes back with its
                # response as a part of its prompt.
                position = len(state.initial_tokens) + len(state.generated_tokens)
                key = key_at(settings.seed, position)
                sampling = settings.sampling
                draws.append(Draw(row, sampling.temperature, sampling.top_p, key))
        self._draws = draws
        return torch.zeros(len(requests_with_new_token), dtype=torch.int32)

    def __call__(self, scores: Tensor, tensor_arg: Tensor) -> Tensor:
        """Scores [rows, vocabulary] with minus infinity for all but the token, where drawn."""
        draws = self._draws
        if self.watch is not None:
            self.watch(scores)
        if not draws:
            return scores
        rows = torch.tensor([draw.row for draw in draws], device=scores.device)
        tokens = choose(scores, draws)
        scores = scores.clone()
        scores[rows] = -torch.inf
        scores[rows, tokens] = 0.0
        return scores


def sampler_list(sampler: Sampler) -> ContinuousBatchingLogitsProcessorList:
    """The sampler as all there is between the logits and the choice of the best."""
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([sampler]))
    processors.tensors_required = 1
    return processors
