"""Writes the tables of `docs/settings.md` from the settings' own fields: `python -m docs.settings`.

A test compares the page with what this would write.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from service.settings import Settings
from trainer_jobs.settings import JobSettings

PAGE = Path(__file__).with_suffix(".md")

TABLES: Mapping[str, tuple[type[BaseModel], str]] = {
    "server": (Settings, "AT2_"),
    "jobs": (JobSettings, ""),
}
"""For each table the settings, and what stands before their names, which are then in capitals."""


def table(settings: type[BaseModel], prefix: str) -> str:
    """The table of all settings of a class, in its order."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        shown = f"{prefix}{name.upper()}" if prefix else name
        meaning = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{shown}` | {_default(field)} | {meaning} |")
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    """A default as one writes it; nothing where there is none."""
    if field.is_required() or field.default in (None, {}, ()):
        return ""
    default = field.default
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"`{text}`"


def with_tables(page: str) -> str:
    """A page with the tables between its marks made anew."""
    for name, (settings, prefix) in TABLES.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise ValueError(f"the page has no marks for the table of {name}")
        page = f"{before}{begin}\n{table(settings, prefix)}\n\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
