"""Command lines of the server and of the jobs, run in one way: what is wrong is one line on
standard error, and the exit status says what kind of end it was.

Imports no model code.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from at2._version import __version__
from at2.printable import printable
from at2.settings import BadSettingsError

FAILED = 1
"""Exit status: the command could not do what it was asked."""

BAD_USAGE = 2
"""Exit status: there is no such command, flag or value."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit status: ended from the keyboard."""

NOBODY_READS = 128 + signal.SIGPIPE
"""Exit status: whoever read the output has left."""


class CommandError(Exception):
    """A command cannot do what it was asked; the message is one line."""


class OutputConsole(Console):
    """Standard output for text that is not markup. A pipe that nobody reads is left to `run_app`:
    rich itself would end the process."""

    def __init__(self) -> None:
        super().__init__(markup=False, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Let the error out."""
        raise BrokenPipeError


def make_app(program: str, about: str, *, last_words: str = "") -> App:
    """A program that has no commands yet.

    Args:
        about: what `--help` begins with.
        last_words: what it ends with.
    """
    return App(
        program,
        console=OutputConsole(),
        help=about,
        help_epilogue=last_words,
        version=f"at2-service {__version__}",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
        exit_on_error=False,
        print_error=False,
        result_action="return_value",
    )


def add_settings_command(
    app: App, name: str, about: str, run: Callable[[Sequence[str], str], int]
) -> None:
    """Add a command whose flags are a program's settings.

    Args:
        run: takes the flags, and the name that their `--help` shows.
    """

    def command(*flags: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> int:
        return run(flags, f"{app.name[0]} {name}")

    in_order = len(list(app))
    app.command(command, name=name, help=about, help_flags=(), version_flags=(), sort_key=in_order)


def run_app(app: App, arguments: Sequence[str] | None) -> int:
    """Run the command that the arguments name.

    Args:
        arguments: those of the command line by default.

    Returns:
        What the command returns, or one of the constants above.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            if words:
                return int(app(words) or 0)
            app.help_print([], console=app.error_console)
            return BAD_USAGE
        finally:
            sys.stdout.flush()
    except (BadSettingsError, CycloptsError) as error:
        print(printable(str(error)), file=sys.stderr)
        return BAD_USAGE
    except CommandError as error:
        print(printable(f"{app.name[0]}: {' '.join(str(error).split())}"), file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Python would complain again when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS
    except KeyboardInterrupt:
        return INTERRUPTED
