"""Verdicts on support: two thresholds of one model, fitted to answers whose origin is known.

Answers that the model wrote from their context are *supported*. Those that it wrote without it, and
those that are shown with another text than they were written from, are not. With `q` of answers
that are judged wrong being allowed on either side,

    high = just above the (1 - q) quantile of support without the context,
    low = the q quantile with it

where of several kinds of answers without the context the highest quantile counts; and if the
classes are further apart than that, high is the larger of the two. From `high` on a statement is
supported, below `low` it is from memory, between the two it is weak. Errors are counted on other
articles than those of the fit. Knows numbers and files; nothing of models.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from at2.errors import EstimatorError, EstimatorMismatchError, InputError
from at2.estimator.identity import ModelIdentity
from at2.files import Place, exists, place_of, read_whole, write_whole

Verdict = Literal["supported", "weak", "from memory"]

FILE_NAME = "support.json"
"""Of a model's calibration, beside its estimator."""

ALLOWED_ERROR = 0.05
"""Share of either class that may be given the opposite verdict in the fit."""


@dataclass(frozen=True)
class Share:
    """How many of how many, and the 95 % interval of the share (Wilson's)."""

    count: int
    of: int
    low: float
    high: float

    @classmethod
    def counted(cls, count: int, of: int) -> "Share":
        """A share with its interval; from 0 to 1 where nothing was counted."""
        if of == 0:
            return cls(0, 0, 0.0, 1.0)
        from scipy.stats import binomtest  # slow to import, and not needed to judge

        interval = binomtest(count, of).proportion_ci(method="wilson")
        return cls(count, of, float(interval.low), float(interval.high))


@dataclass(frozen=True)
class Calibration:
    """The thresholds of a model.

    Attributes:
        model: what they were fitted for.
        supported: support from which on a statement is supported, in nats a token.
        from_memory: support below which it is from memory; no more than `supported`.
        measured: by kind of answer and verdict, how many on held-out articles got it, as
            `{"count", "of", "low", "high"}`; and what it was measured on, for people.
    """

    model: ModelIdentity
    supported: float
    from_memory: float
    measured: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.from_memory <= self.supported:
            raise InputError(
                f"from_memory is {self.from_memory}, above supported, {self.supported}"
            )

    def verdict(self, support: float) -> Verdict:
        """What a support in nats a token says."""
        if support >= self.supported:
            return "supported"
        return "from memory" if support < self.from_memory else "weak"

    def check_fits(self, identity: ModelIdentity) -> None:
        """Raises: EstimatorMismatchError: the thresholds are of another model."""
        fitted = self.model
        if (fitted.config, fitted.tokenizer) != (identity.config, identity.tokenizer):
            raise EstimatorMismatchError(
                f"{FILE_NAME} is of model {fitted.describe()}, not of {identity.describe()}"
            )

    def save(self, folder: str | Place) -> None:
        """Write `FILE_NAME` into a folder."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        write_whole(place_of(folder) / FILE_NAME, text.encode() + b"\n")


def fit_thresholds(
    with_context: Sequence[float],
    without: Sequence[Sequence[float]],
    allowed_error: float = ALLOWED_ERROR,
) -> tuple[float, float]:
    """The thresholds `(from_memory, supported)` of a model.

    Args:
        with_context: support of answers from their context, in nats a token.
        without: of answers that did not come from it, kind by kind.
        allowed_error: share of each kind that may end up on the wrong side of the two.

    Raises:
        InputError: there are none of a kind.
    """
    if not len(with_context) or not without or not all(map(len, without)):
        raise InputError("thresholds need answers of both kinds")
    of_supported = float(np.quantile(with_context, allowed_error, method="lower"))
    highest = max(np.quantile(values, 1 - allowed_error, method="higher") for values in without)
    of_others = float(np.nextafter(highest, np.inf))  # itself, it is not supported
    return min(of_supported, of_others), max(of_supported, of_others)


def load_calibration(estimator: str | Place) -> Calibration | None:
    """The calibration beside an estimator, a file or folder on disk or in a storage; None if there
    is none.

    Raises:
        EstimatorError: there is a file, which is none of ours.
        OSError: it cannot be read.
    """
    place = place_of(estimator)
    place = place.parent if place.suffix in (".pt", ".safetensors") else place
    file = place / FILE_NAME
    if not exists(file):
        return None
    try:
        fields = json.loads(read_whole(file))
        return Calibration(
            model=ModelIdentity(**fields["model"]),
            supported=float(fields["supported"]),
            from_memory=float(fields["from_memory"]),
            measured=dict(fields["measured"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise EstimatorError(f"{file} is no calibration of support: {error}") from error
