"""What can go wrong with a good request: the server is full, late, out of memory, or broken.

    ServerFailure
    ├── BusyError            too many requests at once; try again later
    ├── DeadlineError        the request took longer than it may
    ├── NoMemoryError        the request did not fit the memory; the server goes on
    ├── EngineDownError      the engine cannot generate, for now or for good
    ├── GeneratorError       the server that writes responses refuses, fails, or makes no sense
    │   ├── GeneratorUnavailableError  it cannot be reached, or has too much to do
    │   └── GeneratorLateError         it took too long
    ├── OtherModelError      a generation is of another model than the one that is served
    ├── StoreError           the store of generations cannot be read or written
    └── DamagedRecordError   a generation cannot be read, and never will be

Knows nothing of HTTP: `service.errors` says which status each has. Messages are one line, and safe
to show to a user.
"""

SHOWN = 64
"""Characters of a caller's name or value that a message repeats."""


class ServerFailure(Exception):  # noqa: N818 (a failure is what it is; its kinds are errors)
    """Base of what is no fault of the request."""


class BusyError(ServerFailure):
    """Too many requests at once.

    Args:
        message: how many there are, of which kind.
        retry_after: seconds after which another try is likely to be let in.
    """

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(ServerFailure):
    """The request took longer than it may."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"not done within {seconds:g} seconds, the limit here")


class NoMemoryError(ServerFailure):
    """The request did not fit the memory."""

    def __init__(self) -> None:
        super().__init__("out of memory: send less context, fewer spans or fewer at once")


class EngineDownError(ServerFailure):
    """The engine cannot generate."""

    def __init__(self, message: str = "the generation engine has stopped") -> None:
        super().__init__(message)


class GeneratorError(ServerFailure):
    """The server that writes responses refuses, or fails, or its reply makes no sense.

    Args:
        what: that goes behind its name.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"the generator {what}")


class GeneratorUnavailableError(GeneratorError):
    """The server that writes responses cannot be reached, or has too much to do."""


class GeneratorLateError(GeneratorError):
    """The server that writes responses took too long."""


class OtherModelError(ServerFailure):
    """A generation is of another model than the one that is served.

    Args:
        generation_id: the generation.
        model: the one that is served.
    """

    def __init__(self, generation_id: str, model: str) -> None:
        super().__init__(
            f"generation {generation_id!r} was not written by the model served here, {model}, or "
            "by other weights of it: send its context, query and response instead"
        )


class StoreError(ServerFailure):
    """The store of generations cannot be read or written."""


class DamagedRecordError(ServerFailure):
    """A generation cannot be read, and never will be."""

    def __init__(self, generation_id: str) -> None:
        super().__init__(f"the record of generation {generation_id!r} is damaged")
