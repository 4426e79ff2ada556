"""Data sets from files: what is read, and how what is wrong is named."""

import csv
import io
import json
from pathlib import Path

import datasets
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from at2.errors import InputError
from trainer_jobs import tables
from trainer_jobs.tables import BadRow, Table, open_table

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))
ROWS = [{"context": 'A\nb, "c"', "query": "q?"}, {"context": "é 漢 😀", "query": ""}]


def rows(table: Table) -> list[object]:
    one_by_one = [table.row(index) for index in range(len(table))]
    assert list(table) == one_by_one
    return one_by_one


def write_csv(path: Path, values: list[dict[str, str]]) -> Path:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(values[0]))
    writer.writeheader()
    writer.writerows(values)
    path.write_text(out.getvalue(), "utf-8", newline="")
    return path


def write_jsonl(path: Path, values: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")
    return path


def write_parquet(path: Path, values: list[dict[str, str]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(values), path)
    return path


WRITERS = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


@pytest.mark.parametrize("kind", WRITERS)
@given(values=st.lists(st.fixed_dictionaries({"a b": TEXTS, "ü": TEXTS}), min_size=1, max_size=4))
def test_every_kind_of_file_gives_back_what_was_written(
    kind: str, values: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = WRITERS[kind](tmp_path_factory.mktemp("table") / f"data.{kind}", values)
    assert rows(open_table(str(path))) == values


def test_lines_of_jsonl_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"a": 1}\n\n{"a": \n[1]\n"x"\n\xff{"a": 2}\n{"a": 3}' + b"\n" + b"[" * 99999
    )
    table = open_table(str(path))
    assert table.columns is None
    assert rows(table) == [
        {"a": 1},
        BadRow("line 3", "not JSON: Expecting value at character 6"),
        BadRow("line 4", "not an object, but list"),
        BadRow("line 5", "not an object, but str"),
        BadRow("line 6", "not UTF-8 at byte 0"),
        {"a": 3},
        BadRow("line 8", "nested too deeply"),
    ]
    assert [table.place(i) for i in range(3)] == ["line 1", "line 3", "line 4"]


def test_rows_of_csv_count_from_one_without_the_header(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\ny"\r\n\r\n1\r\n1,2,3\r\n\xff,2\r\n')
    table = open_table(str(path))
    assert table.columns == ["a", "b"]
    assert rows(table) == [
        {"a": "1", "b": "x\ny"},
        BadRow("row 2", "1 values for 2 columns"),
        BadRow("row 3", "3 values for 2 columns"),
        {"a": "\udcff", "b": "2"},
    ]
    assert table.place(3) == "row 4"


def test_a_row_of_csv_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('context,query\na,b\n"a"x,b\nc,d\n', "utf-8")
    first, second, third = open_table(str(path))
    assert (first, third) == ({"context": "a", "query": "b"}, {"context": "c", "query": "d"})
    assert isinstance(second, BadRow)
    assert str(second) == "row 2: ',' expected after '\"'"


def test_a_number_that_is_too_long_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"query": ' + "9" * 5_000 + "}\n", "utf-8")
    (row,) = open_table(str(path))
    assert isinstance(row, BadRow) and str(row).startswith("line 1: not JSON: Exceeds the limit")
    assert "\n" not in str(row)


def test_a_field_of_csv_may_be_long(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "data.csv", [{"a": "x" * 200_000}])
    assert rows(open_table(str(path))) == [{"a": "x" * 200_000}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "a.csv is empty: it has no header"),
        ("a.csv", b"x,y,x\n", "a.csv names a column twice"),
        ("a.csv", b'"a"b\n', "a.csv, line 1: ',' expected after '\"'"),
        ("a.parquet", b"PAR1 not", "cannot read a.parquet: "),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        open_table(str(tmp_path / name))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", tables.FILE_SUFFIXES)
def test_a_file_that_is_not_there_is_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"absent{suffix}"
    with pytest.raises(InputError, match="No such file or directory") as error:
        open_table(str(path))
    assert str(path) in str(error.value)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot read data\.parquet"):
        open_table(str(path))


@pytest.mark.parametrize("split", [None, "validation"])
def test_a_folder_that_datasets_saved_is_read(split: str | None, tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    if split is None:
        saved.save_to_disk(tmp_path)
    else:
        datasets.DatasetDict({split: saved}).save_to_disk(tmp_path)
    table = open_table(str(tmp_path), split=split or "train")
    assert table.columns == ["context", "query"]
    assert rows(table) == ROWS
    assert table.place(1) == "row 2"


def test_a_split_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(tmp_path)
    with pytest.raises(InputError, match="cannot load dataset") as error:
        open_table(str(tmp_path), split="nope")
    assert "nope" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "package"), [("owner/name", "datasets"), ("data.parquet", "pyarrow")]
)
def test_a_missing_package_is_named_with_the_way_to_get_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "find_spec", lambda wanted: None)
    with pytest.raises(InputError) as error:
        open_table(name)
    assert f"the package {package}" in str(error.value)
    assert str(error.value).endswith("pip install 'at2-service[jobs]'")
