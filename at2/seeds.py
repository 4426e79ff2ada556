"""Who draws which random ablations.

A method judged on ablations that it was fitted to looks better than it is, and the published
defaults do that: all of them start at seed 0. Mask `i` of `at2.model.ablation.sample_masks` comes
from `seed + i`, so these three ranges share no draw. (With few sources the same set may still come
up twice by chance.)
"""

from at2.errors import InputError

TRAINING_SEEDS = range(1_000_000)
"""Of the masks that an estimator is trained on; the published package starts at 0, so do we."""

FITTING_SEEDS = range(1_000_000, 2_000_000)
"""Of the masks that a method fits to while it attributes (ContextCite)."""

EVALUATION_SEEDS = range(2_000_000, 3_000_000)
"""Of the masks that methods are judged on."""


def check_seeds(first: int, count: int, allowed: range, *, param: str) -> None:
    """Make sure that `count` masks from seed `first` stay inside a range.

    Raises:
        InputError: they do not.
    """
    if count < 1 or first < allowed.start or first + count > allowed.stop:
        raise InputError(
            f"{count} masks from seed {first} are not within seeds "
            f"{allowed.start} to {allowed.stop - 1}",
            param=param,
        )
