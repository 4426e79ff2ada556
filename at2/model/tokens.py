"""The ids of prompt and response, with what each part of them is: what a task hands to a model.

Knows ids and positions; nothing of text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from at2.errors import InputError
from at2.ranges import TokenRange


@dataclass(frozen=True, eq=False)
class MarkedTokens:
    """A sequence, and which of its tokens are the target, the sources and the query.

    Attributes:
        input_ids: [tokens]; those after the target are not read.
        target_range: the tokens that are attributed; the first token of all cannot be one.
        source_ranges: the tokens of each source.
        query_range: the positions whose attention a contrast takes off that of tokens before
            them; before the target; empty if there are none.

    Raises:
        InputError: the ids are not one sequence, or the target or a source is not within it.
    """

    input_ids: Tensor | Sequence[int]
    target_range: TokenRange
    source_ranges: Sequence[TokenRange] = ()
    query_range: TokenRange = (0, 0)

    def __post_init__(self) -> None:
        self.check_target(self.target_range)
        for start, end in self.source_ranges:
            if not 0 <= start <= end <= len(self.ids):
                raise InputError(
                    f"source range ({start}, {end}) is not within {len(self.ids)} tokens"
                )

    @cached_property
    def ids(self) -> Tensor:
        """The ids as int64 [tokens] on the CPU."""
        ids = torch.as_tensor(self.input_ids, dtype=torch.long, device="cpu")
        if ids.dim() != 1:
            raise InputError(f"input_ids must be one sequence, not of shape {tuple(ids.shape)}")
        return ids

    def check_target(self, target_range: TokenRange) -> None:
        """Check that the model predicts the tokens of a range.

        Raises:
            InputError: they are not within the sequence, or the first token of all is among them.
        """
        start, end = target_range
        if not 1 <= start <= end <= len(self.ids):
            raise InputError(
                f"target range ({start}, {end}) is not within tokens 1 to {len(self.ids)} "
                "(the first token of all is not predicted from anything)"
            )

    def part(self, token_start: int, token_end: int) -> "MarkedTokens":
        """The same with a part of the target as its target.

        Args:
            token_start, token_end: the part, counted from the target's first token.
        """
        first = self.target_range[0]
        return replace(self, target_range=(first + token_start, first + token_end))
