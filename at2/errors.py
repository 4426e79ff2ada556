"""Every exception that this library raises on purpose, and how to tell a lack of memory.

    At2Error
    ├── InputError (also a ValueError)      the caller's text, span or setting is wrong
    │   ├── SpanError                       a span lies outside the response or covers no token
    │   ├── PromptError                     the chat template or tokenizer cannot express the prompt
    │   ├── PromptTooLongError              the prompt and response do not fit the model
    │   └── NothingToUseError               no example of a data set can be used
    ├── ModelError                          the model or tokenizer cannot be used here
    │   ├── UnsupportedModelError           its attention or tokenizer lacks what attribution needs
    │   └── CaptureMismatchError            captured attention disagrees with eager attention
    ├── EstimatorError                      a score estimator file cannot be used
    │   └── EstimatorMismatchError          it was trained for another model
    └── TrainingError                       a training folder, its data and settings do not fit
        └── DamagedFileError                a file in it is truncated, altered or outdated

Catch `InputError` to answer a caller, `At2Error` for anything that is not a bug.
"""

from collections import Counter
from collections.abc import Mapping

_MOST_REASONS = 5


class At2Error(Exception):
    """Base of all deliberate errors; its message is one line and safe to show to a user."""


class InputError(At2Error, ValueError):
    """The caller can mend this by changing the call.

    Args:
        message: one line naming the value and the limit.
        param: the argument at fault, as the caller spells it, if there is one.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class SpanError(InputError):
    """A span of the response is reversed, outside the response, or covers no token."""


class PromptError(InputError):
    """The prompt cannot be built from the given text with this chat template."""


class PromptTooLongError(InputError):
    """Prompt plus response exceed what the model takes; the message names both numbers."""


class NothingToUseError(InputError):
    """No example of a data set can be used; the message counts the reasons.

    Args:
        message: one line, to which the reasons are added, the most frequent first.
        reasons: why, by the place of each: `line 17`, `example 3`.
        param: the argument at fault.
    """

    def __init__(self, message: str, reasons: Mapping[str, str], *, param: str = "dataset") -> None:
        counts = Counter(reasons.values()).most_common()
        listed = [f"{count} × {reason}" for reason, count in counts[:_MOST_REASONS]]
        if len(counts) > _MOST_REASONS:
            listed.append(f"and {len(counts) - _MOST_REASONS} other reasons")
        super().__init__("; ".join([message, *listed]), param=param)
        self.reasons = dict(reasons)


class ModelError(At2Error):
    """The model or its tokenizer cannot be used for attribution."""


class UnsupportedModelError(ModelError):
    """The model bypasses transformers' attention interface, or its tokenizer has no offsets."""


class CaptureMismatchError(ModelError):
    """The self-test found captured attention to differ from eager attention."""


class EstimatorError(At2Error):
    """A score estimator file is missing, damaged or of an unknown layout."""


class EstimatorMismatchError(EstimatorError):
    """A score estimator was trained for another model; the message names both sides."""


class TrainingError(At2Error):
    """A training folder, its data and the current settings do not belong together."""


class DamagedFileError(TrainingError):
    """A file of a training folder is missing, truncated, altered or of other examples; its stage
    can make it again."""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def is_out_of_memory(error: BaseException | str | None) -> bool:
    """Whether an error, or the text of one, says that there was no memory left."""
    if isinstance(error, MemoryError):
        return True
    text = str(error or "").lower()
    # torch raises OutOfMemoryError on a GPU and a plain RuntimeError on a CPU
    return any(
        words in text
        for words in ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc")
    )


def check_count(count: int | None, param: str) -> None:
    """Make sure that there is at least one, unless no number is given.

    Raises:
        InputError: there is none.
    """
    if count is not None and count < 1:
        raise InputError(f"{param} is {count}, not at least 1", param=param)
