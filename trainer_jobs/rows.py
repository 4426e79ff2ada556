"""What a table of examples is: rows by number, some of which cannot be used."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from at2.errors import InputError
from at2.text.encoding import check_text


@dataclass(frozen=True)
class BadRow:
    """What cannot be used.

    Attributes:
        place: its number, as `line 17` or `row 17`.
        reason: one line.
    """

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


Row = Mapping[str, Any] | BadRow
"""Values by column, or what is wrong."""

Numbered = tuple[str, Row]
"""A row and its number for people."""


def text_in(row: Row, column: str, place: str) -> str | BadRow:
    """The text in a column of a row, or why there is none that can be used."""
    if isinstance(row, BadRow):
        return row
    if row.get(column) is None:
        return BadRow(place, f"no {column!r}")
    try:
        text = check_text(row[column], repr(column))
    except InputError as error:
        return BadRow(place, str(error))
    return text if text.strip() else BadRow(place, f"{column!r} is empty")


class Table(Protocol):
    """Rows in their order."""

    @property
    def columns(self) -> Sequence[str] | None:
        """All columns; None if every row has its own."""

    @property
    def num_rows(self) -> int | None:
        """How many rows there are, bad ones included; None if that takes reading them."""

    def rows(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """All rows, of which at least these columns are read; a row at a time."""

    def take(self, indices: Sequence[int], columns: Sequence[str]) -> list[Numbered]:
        """The rows with some indices, counted from 0, in the order of the indices."""


class StreamedTable:
    """A table that can only be read from its beginning: `take` stops at the last row it needs."""

    num_rows: int | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """All rows; see `Table`."""
        raise NotImplementedError

    def take(self, indices: Sequence[int], columns: Sequence[str]) -> list[Numbered]:
        """Some rows; see `Table`."""
        wanted, rows = set(indices), {}
        for index, row in enumerate(self.rows(columns) if wanted else ()):
            if index in wanted:
                rows[index] = row
                if len(rows) == len(wanted):
                    break
        return [rows[index] for index in indices]
