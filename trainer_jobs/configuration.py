"""Where settings come from: flags, the environment, and a file, of which the package has some.

Imports no model code.
"""

import argparse
import inspect
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from trainer_jobs.settings import ENV_PREFIX, JobSettings

PROGRAM = "python -m trainer_jobs"
"""The name that `--help` shows."""

_METAVARS = {
    "int": "N",
    "float": "X",
    "str": "NAME",
    "dict": "NAME=VALUE,…",
    "tuple": "LIST",
}


class _Flags(JobSettings):
    """Train a score estimator for a model from a data set.

    Every setting is also a key of the file (max_new_tokens), and an environment variable
    (AT2_JOBS_MAX_NEW_TOKENS). A flag wins over the environment, which wins over the file.

    Whatever was stopped is started again in the same way: what is on disk and whole is kept.
    """

    model_config = SettingsConfigDict(
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )


class BadSettingsError(Exception):
    """Settings that cannot be used; one line for each that is wrong."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and shows values in the words of the settings' table."""

    def error(self, message: str) -> NoReturn:
        raise BadSettingsError(message)

    def add_flag(self, *names: str, **options: Any) -> argparse.Action:
        """`add_argument`, without what is of no use to people."""
        for nothing in ("None", "{}"):
            options["help"] = options["help"].removesuffix(f" (default: {nothing})")
        kind = str(options.get("metavar", "")).partition("[")[0]
        if kind in _METAVARS:
            options["metavar"] = _METAVARS[kind]
        return self.add_argument(*names, **options)


def configurations() -> list[str]:
    """The names of the configurations in the package."""
    folder = resources.files("trainer_jobs") / "configs"
    return sorted(
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    )


def read_configuration(name: str) -> dict[str, Any]:
    """The settings in a file, or in a configuration of the package.

    Raises:
        BadSettingsError: there is no such file, or it is not TOML.
    """
    if name in configurations():
        text = (resources.files("trainer_jobs") / "configs" / f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = Path(name).expanduser().read_text("utf-8")
        except FileNotFoundError:
            raise BadSettingsError(
                f"config={name!r}: no such file, and none of {', '.join(configurations())}"
            ) from None
        except OSError as error:
            raise BadSettingsError(f"config={name!r}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadSettingsError(f"config={name!r}: not UTF-8 at byte {error.start}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettingsError(f"config={name!r}: {error}") from error


def read_settings(
    flags: Sequence[str], environment: Mapping[str, str], program: str = PROGRAM
) -> JobSettings:
    """Settings of flags, the environment, and the file that one of these names.

    Args:
        environment: is searched for names of no setting; pydantic reads the process's own.

    Raises:
        BadSettingsError: something is wrong.
        SystemExit: help was asked for, and given.
    """
    _refuse_unknown(environment)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", default=environment.get(f"{ENV_PREFIX}CONFIG"))
    try:
        config = finder.parse_known_args(flags)[0].config
    except argparse.ArgumentError as error:
        raise BadSettingsError(f"config: {error.message}") from error
    asks_for_help = any(flag in ("-h", "--help") for flag in flags)
    from_file = read_configuration(config) if config and not asks_for_help else {}

    class Flags(_Flags):
        __doc__ = _Flags.__doc__

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            file = InitSettingsSource(settings_cls, init_kwargs=from_file)
            return init_settings, env_settings, file

    try:
        parser = _Parser(
            prog=program,
            usage="%(prog)s --config FILE [--SETTING VALUE …]",
            description=inspect.getdoc(_Flags),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        source = CliSettingsSource[object](
            Flags, root_parser=parser, add_argument_method=_Parser.add_flag, case_sensitive=True
        )
        return CliApp.run(Flags, cli_args=list(flags), cli_settings_source=source)
    except ValidationError as error:
        raise BadSettingsError(
            "\n".join(_problem(problem) for problem in error.errors())
        ) from error
    except SettingsError as error:
        raise BadSettingsError(str(error).splitlines()[0]) from error


def _refuse_unknown(environment: Mapping[str, str]) -> None:
    """A misspelt variable would be passed over without a word."""
    known = {f"{ENV_PREFIX}{name.upper()}" for name in JobSettings.model_fields}
    for name in sorted(environment):
        if name.startswith(ENV_PREFIX) and name not in known:
            raise BadSettingsError(f"{name}: there is no such setting")


def _problem(problem: Mapping[str, Any]) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return str(message)
    given = ".".join(str(part) for part in problem["loc"])
    setting = given.replace("-", "_")
    if problem["type"] == "missing":
        return f"{setting}: not set"
    if problem["type"] == "extra_forbidden":
        meant = f"; did you mean {setting}?" if setting in JobSettings.model_fields else ""
        return f"{given}={problem['input']!r}: there is no such setting{meant}"
    return f"{setting}={problem['input']!r}: {message}"
