"""The command line of the jobs. Settings are read and judged before anything that imports a model
library, which takes seconds.
"""

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from types import FrameType

from at2.command_line import add_settings_command, make_app, run_app
from at2.settings import BadSettingsError
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

_TERMINATED = 128 + signal.SIGTERM
_GOES_ON = "the same command goes on from here"


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


def _exit_on_sigterm() -> None:
    """End on SIGTERM, which the first process of a container otherwise ignores."""

    def end(sig: int, frame: FrameType | None) -> None:
        print(f"stopped by SIGTERM; {_GOES_ON}", file=sys.stderr)
        raise SystemExit(_TERMINATED)

    signal.signal(signal.SIGTERM, end)


def _run(command: str, flags: Sequence[str], program: str) -> int:
    settings = JobSettings.read(flags, program)
    worker = _worker(command, settings, os.environ)
    _exit_on_sigterm()
    try:
        from trainer_jobs.stages import run_command  # imports model libraries

        status = run_command(command, settings, worker)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        print(f"stopped: nobody reads the output any longer; {_GOES_ON}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        print(f"stopped; {_GOES_ON}", file=sys.stderr)
        raise


app = make_app(
    "python -m trainer_jobs",
    "Make a score estimator for a language model from a data set.",
    last_words="Configurations in the package, to give instead of a file: "
    f"{', '.join(JobSettings.preset_names())}. Each command's --help lists every setting.",
)
for name, about in COMMANDS.items():
    add_settings_command(app, name, about, partial(_run, name))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: those of the command line by default.

    Returns:
        0; 1 after an error and 2 where settings are wrong, with one line for each; 130 after
        Ctrl-C, 141 where nobody reads the output any longer.
    """
    return run_app(app, arguments)
