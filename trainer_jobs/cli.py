"""The command line of the jobs. Settings are read and judged before anything that imports a model
library, which takes seconds.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType

from trainer_jobs.configuration import (
    PROGRAM,
    BadSettingsError,
    configurations,
    read_settings,
)
from trainer_jobs.settings import JobSettings
from trainer_jobs.workers import Worker, worker_of

COMMANDS = {
    "generate": "let the model respond to every example",
    "compute": "compute attention features, and what ablations do to the responses",
    "train": "fit the estimator, and report on the examples that are held out",
    "evaluate": "compare the estimator with other methods on the examples that are held out",
    "run": "all of these, in this order",
    "status": "show what is done, what is missing, by whom, and the time left",
}
"""What can be asked for."""

_BAD_SETTINGS = 2
_TERMINATED = 128 + signal.SIGTERM
_INTERRUPTED = 130
_NOBODY_READS = 128 + signal.SIGPIPE
_GOES_ON = "the same command goes on from here"


def _overview() -> str:
    lines = [
        f"usage: {PROGRAM} COMMAND --config FILE [--SETTING VALUE …]",
        "",
        "Make a score estimator for a language model from a data set.",
        "",
        "commands:",
        *(f"  {name:<10}{what}" for name, what in COMMANDS.items()),
        "",
        "configurations in the package, to give instead of a file:",
        *(f"  {name}" for name in configurations()),
        "",
        f"'{PROGRAM} run --help' lists every setting; '{PROGRAM} --version' says which this is.",
    ]
    return "\n".join(lines)


def _worker(command: str, settings: JobSettings, environment: Mapping[str, str]) -> Worker:
    on_ray = settings.engine == "ray"  # then num_jobs says how many actors there are
    num_jobs = None if on_ray and settings.job_index is None else settings.num_jobs
    try:
        worker = worker_of(settings.job_index, num_jobs, environment)
    except ValueError as error:
        raise BadSettingsError(str(error)) from error
    if settings.engine == "ray":
        if worker.local_name:
            raise BadSettingsError("engine=ray: start one process alone, which drives Ray")
        return Worker()
    if command == "run" and worker.count > 1 and not worker.together:
        raise BadSettingsError(
            f"num_jobs={worker.count}: a stage needs all of the one before it; run generate, "
            "compute and train one after the other"
        )
    return worker


def _version() -> str:
    try:
        return version("at2-service")
    except PackageNotFoundError:
        return "(not installed)"


def _exit_on_sigterm() -> None:
    """As the first process of a container this one would otherwise not end."""

    def end(sig: int, frame: FrameType | None) -> None:
        print(f"stopped by SIGTERM; {_GOES_ON}", file=sys.stderr)
        raise SystemExit(_TERMINATED)

    signal.signal(signal.SIGTERM, end)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the command line by default.

    Returns:
        0; 1 after an error and 2 where settings are wrong, with one line for each; 130 after
        Ctrl-C, 141 where nobody reads the output any longer.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _main(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if given and given[0] in COMMANDS and not {"-h", "--help"} & set(given):
            print(f"stopped: nobody reads the output any longer; {_GOES_ON}", file=sys.stderr)
        return _NOBODY_READS
    except KeyboardInterrupt:
        print(f"stopped; {_GOES_ON}", file=sys.stderr)
        return _INTERRUPTED


def _main(given: Sequence[str]) -> int:
    if not given or given[0] in ("-h", "--help"):
        print(_overview(), file=sys.stdout if given else sys.stderr)
        return 0 if given else _BAD_SETTINGS
    if given[0] == "--version":
        print(f"at2-service {_version()}")
        return 0
    command, *flags = given
    try:
        if command not in COMMANDS:
            raise BadSettingsError(f"{command!r} is not one of {', '.join(COMMANDS)}")
        settings = read_settings(flags, os.environ, f"{PROGRAM} {command}")
        worker = _worker(command, settings, os.environ)
    except BadSettingsError as problem:
        print(problem, file=sys.stderr)
        return _BAD_SETTINGS
    _exit_on_sigterm()
    from trainer_jobs.stages import run_command  # imports model libraries

    return run_command(command, settings, worker)
