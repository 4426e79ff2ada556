"""Tables in text files: JSON lines, a JSON list, CSV and TSV, compressed or not, here or by URL.

A line is decoded by itself, so that a wrong byte costs one row. A record of a CSV file that spans
lines and turns out to be no row costs its first line only: what follows an unclosed quote is read
again as rows of their own.
"""

import csv
import io
import json
import lzma
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from at2.errors import InputError
from at2.files import Place, storage_errors
from trainer_jobs.rows import BadRow, Numbered, StreamedTable, Table

FILE_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv")
"""Text files that are read; a hub name never ends like this."""

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
"""What may come after it, with the name that fsspec has for it."""

_BOMS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_BOM = "\ufeff"
_SHOWN = 12


def text_table(place: Place, suffix: str, encoding: str) -> Table:
    """The rows of a text file.

    Args:
        suffix: one of `FILE_SUFFIXES`: what is in it.

    Raises:
        InputError: it is no table, or cannot be read.
    """
    source = _Text(place, encoding)
    if suffix in (".csv", ".tsv"):
        return _CsvTable(source, "\t" if suffix == ".tsv" else ",")
    return _JsonList(source) if suffix == ".json" else _JsonLines(source)


@dataclass(frozen=True)
class _Text:
    """A file's lines.

    Attributes:
        place: where it is.
        encoding: of its text.
    """

    place: Place
    encoding: str

    @contextmanager
    def open(self) -> Iterator[Any]:
        """The file's bytes, unpacked.

        Raises:
            InputError: there are none, or they cannot be unpacked.
        """
        compression = COMPRESSIONS.get(self.place.suffix.lower())
        filesystem = getattr(self.place, "fs", None) or LocalFileSystem()
        path = getattr(self.place, "path", str(self.place))
        try:
            with storage_errors(), filesystem.open(path, "rb", compression=compression) as file:
                yield file
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"cannot read {self.place}: {reason}", param="dataset") from error

    def lines(self) -> Iterator[str | BadRow]:
        """Lines with their ends, in order; a byte order mark is no part of the first."""
        if self._by_line():
            with self.open() as file:
                for number, line in enumerate(file, start=1):
                    decoded = self._decoded(line, number)
                    if isinstance(decoded, BadRow):
                        yield decoded
                    else:
                        yield from io.StringIO(decoded, newline="")
            return
        yield from io.StringIO(self.read(), newline="")

    def read(self) -> str:
        """All of it.

        Raises:
            InputError: it is not in this encoding.
        """
        with self.open() as file:
            content = file.read()
        try:
            return str(content, self._codec(content[:2])).removeprefix(_BOM)
        except UnicodeError as error:
            raise InputError(
                f"{self.place.name}: {_not_decoded(error, self.encoding)}", param="dataset"
            ) from error

    def _by_line(self) -> bool:
        """Whether bytes can be cut at line feeds before they are decoded."""
        with self.open() as file:
            return "\n".encode(self._codec(file.read(2))) == b"\n"

    def _codec(self, head: bytes) -> str:
        return _BOMS.get(head, self.encoding)

    def _decoded(self, line: bytes, number: int) -> str | BadRow:
        try:
            text = line.decode(self.encoding)
        except UnicodeError as error:
            return BadRow(f"line {number}", _not_decoded(error, self.encoding))
        return text.removeprefix(_BOM) if number == 1 else text


def _not_decoded(error: UnicodeError, encoding: str) -> str:
    name = encoding.upper()
    if not isinstance(error, UnicodeDecodeError):
        return f"not {name}: {error}"
    start, content = error.start, error.object
    near = content[max(0, start - _SHOWN) : start + _SHOWN].decode("latin-1")
    said = f"not {name} at byte {start}"
    if name == "UTF-8":
        said += f" (in Latin-1 it reads {near.strip()!r}: convert the file, or set encoding)"
    return said


@dataclass(frozen=True)
class _JsonLines(StreamedTable):
    """A JSON object a line."""

    source: _Text
    columns: Sequence[str] | None = None

    def rows(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """All rows; see `Table`."""
        for number, line in enumerate(self.source.lines(), start=1):
            place = f"line {number}"
            if isinstance(line, BadRow):
                yield place, BadRow(place, line.reason)
            elif line.strip():
                yield place, _projected(_json_row(line.rstrip("\r\n"), place), columns)


def _json_row(line: str, place: str) -> Any:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        return BadRow(place, f"not JSON: {error.msg} at character {error.pos}")
    except RecursionError:
        return BadRow(place, "nested too deeply")
    except ValueError as error:  # a number with thousands of digits
        return BadRow(place, f"not JSON: {str(error).partition(';')[0]}")
    return _object(value, place)


def _object(value: Any, place: str) -> Any:
    if not isinstance(value, dict):
        return BadRow(place, f"not an object, but {type(value).__name__}")
    return value


def _projected(row: Any, columns: Sequence[str]) -> Mapping[str, Any] | BadRow:
    """A row without the columns that nobody asks for."""
    if isinstance(row, BadRow):
        return row
    return {name: row[name] for name in columns if name in row}


class _JsonList(StreamedTable):
    """A JSON list of objects; or, as files of this name often are, an object a line."""

    columns: Sequence[str] | None = None

    def __init__(self, source: _Text) -> None:
        self._source = source
        text = source.read()
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            # The first line is whole, and more follows: lines, perhaps with a bad one among them.
            if getattr(error, "msg", "") != "Extra data" or "\n" not in text.strip():
                reason = getattr(error, "msg", None) or str(error).partition(";")[0]
                at = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
                raise InputError(
                    f"{source.place.name} is not JSON: {reason}{at}", param="dataset"
                ) from error
            self._values: list[Any] | None = None
            return
        if isinstance(value, dict) and "\n" not in text.strip():
            value = [value]
        if not isinstance(value, list):
            raise InputError(
                f"{source.place.name} holds {type(value).__name__}, not a list of rows",
                param="dataset",
            )
        self._values = value
        self.num_rows = len(value)

    def rows(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """All rows; see `Table`."""
        if self._values is None:
            yield from _JsonLines(self._source).rows(columns)
            return
        for number, value in enumerate(self._values, start=1):
            place = f"row {number}"
            yield place, _projected(_object(value, place), columns)


class _CsvTable(StreamedTable):
    """Rows of values under a header, by commas or tabs."""

    def __init__(self, source: _Text, delimiter: str) -> None:
        csv.field_size_limit(sys.maxsize)  # a context may be long; by default 131,072 characters
        self._source = source
        self._delimiter = delimiter
        self.columns: Sequence[str] = self._header(_Records(source.lines(), delimiter))

    def _header(self, records: "_Records") -> list[str]:
        name = self._source.place.name
        record = records.next()
        if record is None:
            raise InputError(f"{name} is empty: it has no header", param="dataset")
        if isinstance(record, str):
            raise InputError(f"{name}, line 1: {record}", param="dataset")
        if len(set(record)) < len(record):
            raise InputError(f"{name} names a column twice", param="dataset")
        return record

    def rows(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """All rows; see `Table`."""
        records = _Records(self._source.lines(), self._delimiter)
        header = self._header(records)
        number = 0
        while (record := records.next(len(header))) is not None:
            number += 1
            place = f"row {number}"
            if isinstance(record, str):
                yield place, BadRow(place, record)
            else:
                yield place, _projected(dict(zip(header, record, strict=True)), columns)


class _Records:
    """Records of lines, which can be put back."""

    def __init__(self, lines: Iterator[str | BadRow], delimiter: str) -> None:
        self._lines = lines
        self._ahead: deque[str | BadRow] = deque()
        self._taken: list[str | BadRow] = []
        self._delimiter = delimiter
        self._number = 0

    def _feed(self) -> Iterator[str]:
        """Lines for one record; keeps them."""
        while True:
            line = self._ahead.popleft() if self._ahead else next(self._lines, None)
            if line is None:
                return
            self._taken.append(line)
            if isinstance(line, BadRow):
                return
            yield line

    def next(self, width: int | None = None) -> list[str] | str | None:
        """The next record's values, what is wrong with it, or None at the end.

        Args:
            width: how many values it has to have; any number by default.
        """
        while True:
            self._taken.clear()
            problem, values = "", []
            try:
                values = next(csv.reader(self._feed(), delimiter=self._delimiter, strict=True))
            except StopIteration:
                pass
            except csv.Error as error:
                problem = str(error)
            if not self._taken:
                return None
            first = self._number + 1
            if isinstance(self._taken[0], BadRow):
                problem = self._taken[0].reason
            elif problem == "unexpected end of data":
                problem = f"the quote that opens on line {first} is never closed"
            elif not problem and width is not None and values and len(values) != width:
                problem = f"{len(values)} values for {width} columns"
            if problem:
                self._ahead.extendleft(reversed(self._taken[1:]))
                self._number += 1
                return problem
            self._number += len(self._taken)
            if values:  # else an empty line
                return values
