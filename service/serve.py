"""`at2 serve`: load the model, then listen.

Settings are read and judged before anything that imports a model library, which takes seconds.
"""

import gc
import logging
import os
import signal
import threading
from collections.abc import Sequence

from at2.command_line import CommandError
from at2.settings import BadSettingsError
from service import logs
from service.failures import StoreError
from service.security import ApiKeys, Keyring, TrustedHosts, check_exposure, origins
from service.server import check_address, exit_on_signals, run
from service.settings import Settings

logger = logging.getLogger("at2.service")


def serve(flags: Sequence[str], program: str) -> int:
    """Serve until a signal.

    Args:
        program: the name that `--help` shows.

    Returns:
        0 after a stop that was asked for.

    Raises:
        BadSettingsError: settings are wrong.
        CommandError: the server cannot start.
    """
    settings = Settings.read(flags, program)
    try:
        keys = ApiKeys.of(settings)
        check_exposure(settings, keys)
        origins(settings)
        TrustedHosts.of(settings)
        check_address(settings)
    except ValueError as error:
        raise BadSettingsError(str(error)) from error
    logs.configure(
        level=settings.log_level, log_format=settings.log_format, log_text=settings.log_text
    )

    foreign = Settings.foreign_variables(os.environ)
    if foreign:
        reasons = "; ".join(f"{variable} {reason}" for variable, reason in foreign.items())
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
        raise CommandError(f"cannot start: {error}") from error
    # half a second of work, which nobody is to wait for who asks later
    threading.Thread(target=app.openapi, name="openapi", daemon=True).start()
    gc.freeze()  # what is loaded stays: to look through it for garbage took a third of a second
    if settings.api_keys_file is not None:
        keyring: Keyring = app.state.keys
        signal.signal(signal.SIGHUP, lambda *_: keyring.look_again())
    return run(app, settings, app.state.lifecycle)
