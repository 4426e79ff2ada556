"""Writes the tables that follow from the code into their pages: `python -m docs.tables`.

Settings come from their fields, arguments of commands from the parser. A test compares the pages
with what this would write.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.cli import make_parser
from service.settings import Settings
from trainer_jobs.settings import JobSettings

FOLDER = Path(__file__).parent

END = "<!-- end -->"
"""Ends what `<!-- table: NAME -->` begins."""


def settings_table(settings: type[BaseModel], prefix: str = "") -> str:
    """All settings of a class; with a prefix their names are those of variables."""
    rows = []
    for name, field in settings.model_fields.items():
        shown = f"{prefix}{name.upper()}" if prefix else name
        rows.append((f"`{shown}`", _default(field), field.description or ""))
    return _table(("setting", "default", "meaning"), rows)


def _default(field: FieldInfo) -> str:
    """A default as one writes it; nothing where there is none."""
    if field.is_required() or field.default in (None, {}, ()):
        return ""
    default = field.default
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"`{text}`"


def arguments_table(command: str) -> str:
    """The arguments of a subcommand of `at2`."""
    for name in ("AT2_URL", "AT2_API_KEY"):  # they change the defaults that help shows
        os.environ.pop(name, None)
    parser = make_parser()
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    chosen: argparse.ArgumentParser = commands.choices[command]
    formatter = chosen._get_formatter()
    rows = []
    for action in chosen._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        given = action.option_strings[-1] if action.option_strings else ""
        name = action.dest.upper() if given else action.dest
        values = "" if action.nargs == 0 else formatter._format_args(action, name)
        shown = f"{given} {values}".strip()
        rows.append((f"`{shown}`", formatter._expand_help(action)))
    return _table(("argument", "meaning"), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in r] for r in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


TABLES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "settings.md": {
        "server": lambda: settings_table(Settings, "AT2_"),
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
    for name in TABLES:
        (FOLDER / name).write_text(with_tables(name), "utf-8")
