"""Writes the tables that follow from the code into their pages: `python -m docs.tables`.

Settings come from their fields, arguments of commands from their signatures. A test compares the
pages with what this would write (`tests/service/test_docs.py`).
"""

import argparse
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic_core import PydanticUndefined

from at2.settings import ProgramSettings
from service.cli import app
from service.settings import Settings
from trainer_jobs.settings import JobSettings

FOLDER = Path(__file__).parent

END = "<!-- end -->"
"""Ends what `<!-- table: NAME -->` begins."""


def settings_table(settings: type[ProgramSettings]) -> str:
    """All settings of a class."""
    rows = [
        (f"`{settings.shown(name)}`", _default(field.get_default()), field.description or "")
        for name, field in settings.model_fields.items()
    ]
    return _table(("setting", "default", "meaning"), rows)


def _default(value: object) -> str:
    """A default as one writes it; nothing where there is none."""
    if value is None or value in ({}, (), PydanticUndefined, inspect.Parameter.empty):
        return ""
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def arguments_table(command: str) -> str:
    """The arguments of a subcommand of `at2`."""
    rows = []
    for argument in app[command].assemble_argument_collection(parse_docstring=True):
        if argument.show:
            choices = ", ".join(f"`{choice}`" for choice in argument.get_choices() or ())
            meaning = argument.parameter.help or ""
            variables = "".join(f"; also `{name}`" for name in argument.parameter.env_var or ())
            rows.append(
                (
                    f"`{argument.name}`",
                    _default(argument.field_info.default),
                    meaning + variables + (f": {choices}" if choices else ""),
                )
            )
    return _table(("argument", "default", "meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in r] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "settings.md": {
        "server": lambda: settings_table(Settings),
        "jobs": lambda: settings_table(JobSettings),
    },
    "commands.md": {
        "ask": lambda: arguments_table("ask"),
        "attribute": lambda: arguments_table("attribute"),
        "calibrate": lambda: arguments_table("calibrate"),
    },
}
"""The tables of each page, by the names of their marks."""


def with_tables(name: str) -> str:
    """A page with its tables made anew.

    Raises:
        ValueError: the page lacks a mark.
    """
    page = (FOLDER / name).read_text("utf-8")
    for table, make in TABLES[name].items():
        before, begin, rest = page.partition(f"<!-- table: {table} -->\n")
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"{name} has no marks for the table {table}")
        page = f"{before}{begin}\n{make()}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name in TABLES:
        (FOLDER / name).write_text(with_tables(name), "utf-8")
