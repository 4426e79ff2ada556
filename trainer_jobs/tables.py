"""Rows of a data set: from a file, or by the `datasets` package.

Knows files and columns; nothing of tasks or models. JSON lines and CSV are read by `text_tables`,
since `datasets` refuses a whole file for one bad line and knows no line numbers. Parquet is read by
pyarrow, column by column, since `datasets` copies all of it first. `datasets` reads what is on the
hub, what it saved, and folders.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOENT
from importlib.util import find_spec
from typing import Any

from at2.errors import InputError, reason_of
from at2.files import Place, exists, place_of, storage_errors
from trainer_jobs.rows import Numbered, Table
from trainer_jobs.text_tables import COMPRESSIONS, FILE_SUFFIXES, text_table

_EXTRA = "pip install 'at2-service[jobs]'"

_OTHER_SUFFIXES = (".txt", ".md", ".xls", ".xlsx", ".xml", ".yaml", ".arrow", ".feather", ".zst")
"""Files that people have and that are not read; a hub name does not end like this, either."""

WHOLE = "train"
"""The split of what has only one."""


@dataclass(frozen=True)
class HubTable:
    """A `datasets.Dataset`, which reads a row when it is asked for."""

    dataset: Any

    @property
    def columns(self) -> Sequence[str] | None:
        """All columns."""
        return list(self.dataset.column_names)

    @property
    def num_rows(self) -> int | None:
        """How many rows there are."""
        return len(self.dataset)

    def rows(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """All rows; other columns are not decoded."""
        return _numbered(self.dataset.select_columns(list(columns)))

    def take(self, indices: Sequence[int], columns: Sequence[str]) -> list[Numbered]:
        """Some rows; see `Table`."""
        rows = self.dataset.select_columns(list(columns)).select(list(indices))
        return [(f"row {i + 1}", row) for i, row in zip(indices, rows, strict=True)]


@dataclass(frozen=True)
class ParquetTable:
    """A Parquet file, of which only the asked columns are read.

    Attributes:
        name: of the file.
        dataset: of `pyarrow.dataset`.
    """

    name: str
    dataset: Any

    @property
    def columns(self) -> Sequence[str] | None:
        """All columns."""
        return list(self.dataset.schema.names)

    @property
    def num_rows(self) -> int | None:
        """How many rows there are, by the file's own account."""
        return int(self.dataset.count_rows())

    def rows(self, columns: Sequence[str]) -> Iterator[Numbered]:
        """All rows, batch by batch."""
        with _arrow_errors(self.name):
            # By default it reads ahead, a whole file of some.
            batches = self.dataset.to_batches(
                columns=list(columns), batch_readahead=1, fragment_readahead=1
            )
            yield from _numbered(row for batch in batches for row in batch.to_pylist())

    def take(self, indices: Sequence[int], columns: Sequence[str]) -> list[Numbered]:
        """Some rows: only the groups of rows that they are in are read."""
        with _arrow_errors(self.name):
            rows = self.dataset.take(list(indices), columns=list(columns)).to_pylist()
        return [(f"row {i + 1}", row) for i, row in zip(indices, rows, strict=True)]


def _numbered(rows: Iterable[Mapping[str, Any]]) -> Iterator[Numbered]:
    return ((f"row {number}", row) for number, row in enumerate(rows, start=1))


def open_table(
    name: str,
    *,
    subset: str | None = None,
    split: str = WHOLE,
    revision: str | None = None,
    encoding: str = "utf-8",
) -> Table:
    """A file's rows, or those of a data set on the hub or in a folder.

    Args:
        name: a file with one of `FILE_SUFFIXES` (and perhaps of `COMPRESSIONS`) or its URL, a
            folder, or a name on the hub.
        subset, split, revision: which part and version of what is not a file. A split may be cut
            and joined as `datasets` has it: `train[:10]`, `train+test`.
        encoding: of text files.

    Raises:
        InputError: it cannot be read, has no such split, or a package is missing.
    """
    try:
        place = place_of(name)
    except InputError as error:
        raise InputError(f"cannot read {error}", param="dataset") from error
    suffixes = [suffix.lower() for suffix in place.suffixes]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSIONS
    suffix = "".join(suffixes[-2:-1] if compressed else suffixes[-1:])
    is_file = suffix in FILE_SUFFIXES or suffix == ".parquet"
    if not is_file:
        with _one_line_errors(name), storage_errors():
            _refuse_other_files(name, place, compressed or suffix in _OTHER_SUFFIXES)
        return HubTable(_by_datasets(name, place, subset, split, revision))
    if split != WHOLE:  # else all rows would be taken, held-out ones of another run among them
        raise InputError(
            f"split={split!r}: a file has no splits, and {WHOLE!r} is all of it; limit, held_out "
            "and where choose rows",
            param="split",
        )
    if suffix == ".parquet":
        _require("pyarrow", "Parquet files")
    try:
        "".encode(encoding)
    except LookupError as error:
        raise InputError(f"encoding={encoding!r}: there is none", param="encoding") from error
    with _one_line_errors(name):
        if not exists(place):
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), name)
        return _parquet(place) if suffix == ".parquet" else text_table(place, suffix, encoding)


@contextmanager
def _one_line_errors(name: str) -> Iterator[None]:
    """A file or storage that cannot be read is told in one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or (str(error).splitlines() or [repr(error)])[0]
        raise InputError(f"cannot read {name}: {reason}", param="dataset") from error


def _refuse_other_files(name: str, place: Place, by_suffix: bool) -> None:
    """A local file or what looks like one is never looked for on the hub."""
    if place.is_dir():
        return
    known = "none of .jsonl, .ndjson, .json, .csv, .tsv, .parquet"
    if place.is_file() or by_suffix:
        raise InputError(f"cannot read {name}: its name ends with {known}", param="dataset")
    if "://" in name or name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise InputError(f"cannot read {name}: No such file or directory", param="dataset")


def _parquet(place: Place) -> ParquetTable:
    from pyarrow import dataset, fs

    filesystem = getattr(place, "fs", None)  # what fsspec has of it, if it is not a local file
    if filesystem is not None:
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(filesystem))
    path = str(place) if filesystem is None else place.path  # type: ignore[union-attr]
    with _arrow_errors(place.name):
        parquet = dataset.dataset(path, format="parquet", filesystem=filesystem)
    return ParquetTable(place.name, parquet)


@contextmanager
def _arrow_errors(name: str) -> Iterator[None]:
    """A damaged file is told in one line."""
    try:
        yield
    except (OSError, ValueError) as error:  # Arrow's own are among these
        raise InputError(f"cannot read {name}: {reason_of(error)}", param="dataset") from error


def _by_datasets(
    name: str, place: Place, subset: str | None, split: str, revision: str | None
) -> Any:
    _require("datasets", "data sets of the hub")
    import datasets

    # What others wrote, or a network, fails in too many ways to list.
    try:
        if any((place / name).exists() for name in ("dataset_dict.json", "state.json")):
            return _part_of(datasets.load_from_disk(str(place)), split)
        where = str(place) if place.is_dir() else name
        return datasets.load_dataset(where, subset, split=split, revision=revision)
    except Exception as error:
        reason = reason_of(error)
        raise InputError(f"cannot load dataset {name!r}: {reason}", param="dataset") from error


def _part_of(saved: Any, split: str) -> Any:
    """The rows of a split, perhaps cut or joined, of what `datasets` saved."""
    from datasets import DatasetDict, ReadInstruction, concatenate_datasets

    if not isinstance(saved, DatasetDict):  # one split, which need not have kept its name
        saved = {str(saved.split or WHOLE): saved, WHOLE: saved}
    if split in saved:
        return saved[split]
    lengths = {name: len(rows) for name, rows in saved.items()}
    parts = ReadInstruction.from_spec(split).to_absolute(lengths)
    return concatenate_datasets(
        [saved[part.splitname].select(range(part.from_, part.to)) for part in parts]
    )


def _require(package: str, what: str) -> None:
    if find_spec(package) is None:
        raise InputError(
            f"{what} need the package {package}, which is not installed: {_EXTRA}", param="dataset"
        )
