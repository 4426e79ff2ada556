"""Rows of a data set by number: from a JSONL, CSV or Parquet file, or by the `datasets` package.

Knows files and columns; nothing of tasks or models. A line of a file that is not a row is kept as a
`BadRow`, with its number and the reason, for the caller to judge. Lines and rows count from 1; the
header of a CSV file is no row.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from at2.errors import InputError

FILE_SUFFIXES = (".jsonl", ".ndjson", ".csv", ".parquet")
"""Files that are read; a hub name never ends like this."""

_EXTRA = "pip install 'at2-service[jobs]'"


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


class Table(Protocol):
    """Rows by index, from 0."""

    @property
    def columns(self) -> Sequence[str] | None:
        """All columns; None if every row has its own."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Mapping[str, Any] | BadRow]:
        """All rows in order, which is faster than one by one."""

    def row(self, index: int) -> Mapping[str, Any] | BadRow:
        """A row's values by column, or what is wrong with it."""

    def place(self, index: int) -> str:
        """A row's number for people."""


@dataclass(frozen=True)
class FileTable:
    """A table in memory.

    Attributes:
        rows: what was read, in order.
        places: the number of each, for people.
        columns: all columns; None if every row has its own.
    """

    rows: Sequence[Mapping[str, Any] | BadRow]
    places: Sequence[str]
    columns: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, Any] | BadRow]:
        return iter(self.rows)

    def row(self, index: int) -> Mapping[str, Any] | BadRow:
        """A row's values by column, or what is wrong with it."""
        return self.rows[index]

    def place(self, index: int) -> str:
        """`line 17` or `row 17`."""
        return self.places[index]


@dataclass(frozen=True)
class HubTable:
    """A `datasets.Dataset`, which reads a row when it is asked for."""

    dataset: Any

    @property
    def columns(self) -> Sequence[str] | None:
        """All columns."""
        return list(self.dataset.column_names)

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[Mapping[str, Any] | BadRow]:
        return iter(self.dataset)

    def row(self, index: int) -> Mapping[str, Any] | BadRow:
        """A row's values by column."""
        values: Mapping[str, Any] = self.dataset[index]
        return values

    def place(self, index: int) -> str:
        """`row 17`."""
        return f"row {index + 1}"

    def only(self, columns: Sequence[str]) -> "HubTable":
        """The same rows without the other columns, which are then not decoded."""
        return HubTable(self.dataset.select_columns(list(columns)))


def open_table(
    name: str, *, subset: str | None = None, split: str = "train", revision: str | None = None
) -> Table:
    """A file's rows, or those of a data set on the hub or in a folder of `datasets`.

    Args:
        name: a file with one of `FILE_SUFFIXES`, a folder, or a name on the hub.
        subset, split, revision: which part and version of what is not a file.

    Raises:
        InputError: it cannot be read, or a package is missing.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if suffix not in FILE_SUFFIXES:
        return HubTable(_hub(name, subset, split, revision))
    try:
        if suffix == ".parquet":
            return _parquet(path)
        return _csv(path) if suffix == ".csv" else _jsonl(path)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise InputError(f"cannot read {name}: {reason}", param="dataset") from error


def _jsonl(path: Path) -> FileTable:
    rows: list[Mapping[str, Any] | BadRow] = []
    places = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                places.append(f"line {number}")
                rows.append(_json_row(line.rstrip(b"\r\n"), places[-1]))
    return FileTable(rows, places)


def _json_row(line: bytes, place: str) -> Mapping[str, Any] | BadRow:
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        return BadRow(place, f"not UTF-8 at byte {error.start}")
    except json.JSONDecodeError as error:
        return BadRow(place, f"not JSON: {error.msg} at character {error.pos}")
    except RecursionError:
        return BadRow(place, "nested too deeply")
    except ValueError as error:  # a number with thousands of digits
        return BadRow(place, f"not JSON: {str(error).partition(';')[0]}")
    if not isinstance(value, dict):
        return BadRow(place, f"not an object, but {type(value).__name__}")
    return value


def _csv(path: Path) -> FileTable:
    csv.field_size_limit(sys.maxsize)  # a context may be long; by default 131,072 characters
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, None)
            if header is None:
                raise InputError(f"{path.name} is empty: it has no header", param="dataset")
            if len(set(header)) < len(header):
                raise InputError(f"{path.name} names a column twice", param="dataset")
            rows = list(_csv_rows(reader, header))
        except csv.Error as error:
            raise InputError(
                f"{path.name}, line {reader.line_num}: {error}", param="dataset"
            ) from error
    return FileTable(rows, [f"row {number}" for number in range(1, len(rows) + 1)], header)


def _csv_rows(
    reader: Iterator[list[str]], header: Sequence[str]
) -> Iterator[Mapping[str, Any] | BadRow]:
    number = 0
    while True:
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:  # the reader goes on with the next line
            number += 1
            yield BadRow(f"row {number}", str(error))
            continue
        if not values:  # an empty line
            continue
        number += 1
        if len(values) != len(header):
            reason = f"{len(values)} values for {len(header)} columns"
            yield BadRow(f"row {number}", reason)
        else:
            yield dict(zip(header, values, strict=True))


def _parquet(path: Path) -> FileTable:
    _require("pyarrow", "Parquet files")
    import pyarrow
    from pyarrow import parquet

    try:
        with path.open("rb") as file:
            table = parquet.read_table(file)
    except (pyarrow.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot read {path.name}: {reason}", param="dataset") from error
    rows = table.to_pylist()
    places = [f"row {number}" for number in range(1, len(rows) + 1)]
    return FileTable(rows, places, table.column_names)


def _hub(name: str, subset: str | None, split: str, revision: str | None) -> Any:
    _require("datasets", "data sets of the hub")
    import datasets

    # What others wrote, or a network, fails in too many ways to list.
    try:
        if (Path(name) / "dataset_dict.json").exists():
            return datasets.load_from_disk(name)[split]
        if (Path(name) / "state.json").exists():
            return datasets.load_from_disk(name)
        return datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise InputError(f"cannot load dataset {name!r}: {reason}", param="dataset") from error


def _require(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise InputError(
            f"{what} need the package {package}, which is not installed: {_EXTRA}", param="dataset"
        )
