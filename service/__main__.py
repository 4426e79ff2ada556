"""`python -m service`: load the model, then listen. Settings come from flags and the environment.

Settings are read and judged before anything that imports a model library, which takes seconds.
"""

import logging
import os
import signal
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import CliApp, CliSettingsSource, SettingsConfigDict

from service import logs
from service.environment import ignored
from service.failures import StoreError
from service.security import ApiKeys, Keyring, TrustedHosts, check_exposure, origins
from service.server import check_address, exit_on_signals, run
from service.settings import Settings

logger = logging.getLogger("at2.service")

_SECRET = frozenset({"api_keys", "generator", "generator_key", "store"})


class _Flags(Settings):
    """Serve a language model that says which parts of the context it used.

    Every flag is also an environment variable: --max-records is AT2_MAX_RECORDS. A flag wins.
    Without any, the default model is served to this machine at http://127.0.0.1:8000.
    """

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )


def _problems(error: ValueError) -> list[str]:
    """One line for each setting that is wrong."""
    if not isinstance(error, ValidationError):
        return [str(error)]
    lines = []
    for problem in error.errors():
        setting, *inside = map(str, problem["loc"]) if problem["loc"] else [""]
        value = "" if setting in _SECRET else f"={problem['input']!r}"
        name = ".".join([setting.upper(), *inside])
        lines.append(f"AT2_{name}{value}: {problem['msg'].removeprefix('Value error, ')}")
    return lines


def main(arguments: Sequence[str] | None = None, program: str = "python -m service") -> int:
    """Serve until a signal.

    Args:
        arguments: flags; those of the command line by default.
        program: the name that `--help` shows.

    Returns:
        0 after a stop that was asked for; 1 if the server could not start, with one line saying
        why for each reason.
    """
    flags = list(sys.argv[1:] if arguments is None else arguments)
    try:
        not_ours = ignored(os.environ, Settings.model_fields)
        for variable in not_ours:
            del os.environ[variable]  # AT2_PORT=tcp://… would be taken for a port
        source = CliSettingsSource[object](_Flags, cli_prog_name=program)
        settings: Settings = CliApp.run(_Flags, cli_args=flags, cli_settings_source=source)
        keys = ApiKeys.of(settings)
        check_exposure(settings, keys)
        origins(settings)
        TrustedHosts.of(settings)
        check_address(settings)
    except ValueError as error:
        print(*_problems(error), sep="\n", file=sys.stderr)
        return 1
    logs.configure(
        level=settings.log_level, log_format=settings.log_format, log_text=settings.log_text
    )

    if not_ours:
        reasons = "; ".join(f"{variable} {reason}" for variable, reason in not_ours.items())
        logger.warning("variables that are not read: %s", reasons)

    exit_on_signals()
    logger.info("loading model %s", settings.model)

    from transformers.utils import logging as transformers_logging

    from at2.errors import At2Error
    from service.app import create_app
    from service.engine import Engine

    transformers_logging.disable_progress_bar()
    try:
        app = create_app(Engine(settings))
    except (At2Error, StoreError) as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    if settings.api_keys_file is not None:
        keyring: Keyring = app.state.keys
        signal.signal(signal.SIGHUP, lambda *_: keyring.look_again())
    return run(app, settings, app.state.lifecycle)


if __name__ == "__main__":
    sys.exit(main())
