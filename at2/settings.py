"""Settings of the server and of the jobs, read in one way: a flag wins over an environment
variable, which wins over a key of a file (TOML).

Imports no model code, so that a wrong setting is reported at once.
"""

import argparse
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from at2.errors import reason_of

# What Kubernetes puts into every container of a namespace that has a service at2 or at2-anything.
_KUBERNETES = re.compile(
    r"AT2_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
    r"|AT2_(\w+_)?PORT=(tcp|udp|sctp)://.*"
)

_CLOSE = 0.7
"""How much of two names must be the same for one to be a misspelling of the other."""

_METAVARS = {
    "int": "N",
    "float": "X",
    "str": "NAME",
    "SecretStr": "KEY",
    "Path": "FILE",
    "dict": "NAME=VALUE,…",
    "tuple": "LIST",
}


class BadSettingsError(Exception):
    """Settings that cannot be used; one line for each that is wrong."""


class ProgramSettings(BaseSettings):
    """A program's settings: its subclasses have a field for each, and say `env_prefix`.

    The class's docstring is the beginning of `--help`.
    """

    model_config = SettingsConfigDict(
        env_ignore_empty=True,  # what a compose file makes of a variable that is not set
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    named_by_variable: ClassVar[bool] = False
    """Whether messages call a setting by its variable, not by its key in the file."""

    secret: ClassVar[frozenset[str]] = frozenset()
    """Settings whose values no message shows."""

    foreign: ClassVar[Mapping[str, str]] = {}
    """Variables that begin with the prefix and belong to something else, and how they are told
    apart; a name that ends with `_` stands for all that begin with it."""

    presets: ClassVar[Traversable | None] = None
    """A folder of files that can be named without it and without `.toml`."""

    config: str | None = Field(default=None, description="File of settings (TOML).")

    @classmethod
    def read(cls, flags: Sequence[str], program: str) -> Self:
        """The settings of flags, the process's environment and the file that one of them names.

        Args:
            program: the name that `--help` shows.

        Raises:
            BadSettingsError: something is wrong.
            SystemExit: help was asked for, and given.
        """
        cls.foreign_variables(os.environ)
        about = (
            f"{inspect.getdoc(cls)}\n\nEvery setting is a flag (--dtype), an environment variable "
            f"({cls.variable('dtype')}) and a key\nof the file (dtype). A flag wins over the "
            "variable, which wins over the file."
        )
        parser = _Parser(
            prog=program,
            usage="%(prog)s [--config FILE] [--SETTING VALUE …]",
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        source = CliSettingsSource[object](
            cls, root_parser=parser, add_argument_method=_Parser.add_flag, case_sensitive=True
        )
        try:
            return CliApp.run(cls, cli_args=list(flags), cli_settings_source=source)
        except ValidationError as error:
            raise BadSettingsError("\n".join(map(cls._problem, error.errors()))) from error
        except SettingsError as error:
            raise BadSettingsError(reason_of(error)) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, which flags become, win over variables, and these over the file."""
        assert isinstance(env_settings, EnvSettingsSource)
        env_settings.env_vars = {
            name: value
            for name, value in env_settings.env_vars.items()
            if not _of_kubernetes(name, value)
        }
        return init_settings, env_settings, _ConfigFile(settings_cls)

    @classmethod
    def variable(cls, setting: str) -> str:
        """The environment variable of a setting."""
        return f"{cls.model_config['env_prefix']}{setting}".upper()

    @classmethod
    def shown(cls, setting: str) -> str:
        """A setting as messages and the documentation call it."""
        return cls.variable(setting) if cls.named_by_variable else setting

    @classmethod
    def preset_names(cls) -> list[str]:
        """The files that need no path."""
        files = cls.presets.iterdir() if cls.presets else ()
        return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))

    @classmethod
    def read_file(cls, name: str) -> dict[str, Any]:
        """What a file says.

        Raises:
            BadSettingsError: there is no such file, or it is not TOML.
        """
        given = f"{cls.shown('config')}={name!r}"
        presets = cls.preset_names()
        path: Traversable | Path = Path(name).expanduser()
        if cls.presets is not None and name in presets:
            path = cls.presets / f"{name}.toml"
        elif not path.is_file():
            others = f", and none of {', '.join(presets)}" if presets else ""
            reason = "is a folder" if path.is_dir() else "no such file"
            raise BadSettingsError(f"{given}: {reason}{others}")
        try:
            return TomlConfigSettingsSource(cls, path)()
        except OSError as error:
            raise BadSettingsError(f"{given}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadSettingsError(f"{given}: not UTF-8 at byte {error.start}") from error
        except ValueError as error:
            raise BadSettingsError(f"{given}: {error}") from error

    @classmethod
    def foreign_variables(cls, environment: Mapping[str, str]) -> dict[str, str]:
        """Variables that begin with the prefix and are not read, with what is to be said of each.

        A setting that is silently not read is worse than none: a limit or a key would not be there.

        Raises:
            BadSettingsError: some are nobody's; has a line for each.
        """
        known = {cls.variable(name) for name in cls.model_fields}
        found: dict[str, str] = {}
        wrong: list[str] = []
        for variable, value in sorted(environment.items()):
            name = variable.upper()
            if not value or not name.startswith(cls.variable("")):
                continue
            if _of_kubernetes(name, value):
                found[variable] = f"({value}) is Kubernetes' address of a service"
            elif name not in known:
                reasons = [
                    reason
                    for other, reason in cls.foreign.items()
                    if name == other or (other.endswith("_") and name.startswith(other))
                ]
                if reasons:
                    found[variable] = reasons[0]
                else:
                    setting = name.removeprefix(cls.variable(""))
                    wrong.append(
                        _no_such_setting(variable, setting, cls.model_fields, cls.variable)
                    )
        if wrong:
            raise BadSettingsError("\n".join(wrong))
        return found

    @classmethod
    def _problem(cls, problem: Mapping[str, Any]) -> str:
        """One line about a setting that is wrong."""
        message = str(problem["msg"]).removeprefix("Value error, ")
        if not problem["loc"]:
            return message
        setting, *inside = map(str, problem["loc"])
        name = ".".join([cls.shown(setting.replace("-", "_")), *inside])
        if problem["type"] == "missing":
            return f"{name}: not set"
        if problem["type"] == "extra_forbidden":
            return _no_such_setting(setting, setting, cls.model_fields, str)
        value = "" if setting in cls.secret else f"={problem['input']!r}"
        return f"{name}{value}: {message}"


class _ConfigFile(TomlConfigSettingsSource):
    """The file that a flag or a variable names; these have been read when this is."""

    settings_cls: type[ProgramSettings]

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get("config")
        return {} if name is None else self.settings_cls.read_file(name)


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


def parse_pairs(value: str) -> dict[str, str]:
    """`name=value,name=value` as a dictionary.

    Raises:
        ValueError: it is something else, or a name is given twice.
    """
    pairs = [entry.partition("=") for entry in value.split(",") if entry.strip()]
    if not all(name.strip() and item.strip() for name, _, item in pairs):
        raise ValueError("not of the form name=value,name=value")
    if len({name.strip() for name, _, _ in pairs}) < len(pairs):
        raise ValueError("a name is given twice")
    return {name.strip(): item.strip() for name, _, item in pairs}


def _of_kubernetes(variable: str, value: str | None) -> bool:
    name = variable.upper()
    return bool(_KUBERNETES.fullmatch(name) or _KUBERNETES.fullmatch(f"{name}={value}"))


def _no_such_setting(
    given: str, name: str, settings: Iterable[str], shown: Callable[[str], str]
) -> str:
    """One line about what was given, with the setting that must have been meant, as it is shown."""
    near = get_close_matches(name.lower().replace("-", "_"), settings, n=1, cutoff=_CLOSE)
    return f"{given}: there is no such setting" + "".join(
        f"; did you mean {shown(setting)}?" for setting in near
    )
