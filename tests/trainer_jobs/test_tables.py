"""Data sets from files: what is read, and how what is wrong is named."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from at2.errors import InputError
from trainer_jobs import tables
from trainer_jobs.examples import load_examples
from trainer_jobs.rows import BadRow, Table
from trainer_jobs.settings import JobSettings
from trainer_jobs.tables import open_table
from trainer_jobs.text_tables import FILE_SUFFIXES

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"))
ROWS = [{"context": 'A\nb, "c"', "query": "q?"}, {"context": "é 漢 😀", "query": ""}]


def rows(table: Table, *columns: str) -> list[object]:
    """The rows of a table, read in order and each by its number."""
    wanted = columns or tuple(table.columns or ("a", "b", "context", "query"))
    numbered = list(table.rows(wanted))
    assert table.num_rows in (None, len(numbered))
    backwards = list(reversed(range(len(numbered))))
    assert table.take(backwards, wanted) == numbered[::-1]
    return [row for _, row in numbered]


def places(table: Table) -> list[str]:
    return [place for place, _ in table.rows(table.columns or ())]


def write_csv(path: Path, values: list[dict[str, str]], delimiter: str = ",") -> Path:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(values[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(values)
    path.write_text(out.getvalue(), "utf-8", newline="")
    return path


def write_tsv(path: Path, values: list[dict[str, str]]) -> Path:
    return write_csv(path, values, "\t")


def write_jsonl(path: Path, values: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")
    return path


def write_json(path: Path, values: list[dict[str, str]]) -> Path:
    path.write_text(json.dumps(values, indent=1), "utf-8")
    return path


def write_parquet(path: Path, values: list[dict[str, str]]) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(values), path)
    return path


WRITERS = {
    "csv": write_csv,
    "tsv": write_tsv,
    "jsonl": write_jsonl,
    "json": write_json,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("kind", WRITERS)
@given(values=st.lists(st.fixed_dictionaries({"a b": TEXTS, "ü": TEXTS}), min_size=1, max_size=4))
def test_every_kind_of_file_gives_back_what_was_written(
    kind: str, values: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = WRITERS[kind](tmp_path_factory.mktemp("table") / f"data.{kind}", values)
    assert rows(open_table(str(path)), "a b", "ü") == values
    assert rows(open_table(str(path)), "ü") == [{"ü": value["ü"]} for value in values]


def packed_zip(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("data", content)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json"])
@pytest.mark.parametrize(
    ("suffix", "pack"),
    [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zip", packed_zip)],
)
def test_text_may_be_compressed(kind: str, suffix: str, pack: Any, tmp_path: Path) -> None:
    plain = WRITERS[kind](tmp_path / f"data.{kind}", ROWS)
    path = tmp_path / f"data.{kind}{suffix}"
    path.write_bytes(pack(plain.read_bytes()))
    assert rows(open_table(str(path))) == ROWS


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zip"])
def test_a_damaged_compressed_file_is_one_line(suffix: str, tmp_path: Path) -> None:
    whole = {".gz": gzip.compress, ".xz": lzma.compress, ".zip": packed_zip}[suffix](b"{}\n" * 9999)
    for content in (whole[:-9], b"not packed"):
        (tmp_path / f"data.jsonl{suffix}").write_bytes(content)
        with pytest.raises(InputError, match=r"^cannot read .*data\.jsonl") as error:
            rows(open_table(str(tmp_path / f"data.jsonl{suffix}")))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_may_be_in_another_storage(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"data.{kind}", ROWS)
    MemoryFileSystem().pipe_file(f"/tables/data.{kind}", path.read_bytes())
    assert rows(open_table(f"memory://tables/data.{kind}")) == ROWS


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
        BadRow(
            "line 6",
            "not UTF-8 at byte 0 (in Latin-1 it reads 'ÿ{\"a\": 2}': convert the file, or set "
            "encoding)",
        ),
        {"a": 3},
        BadRow("line 8", "nested too deeply"),
    ]
    assert places(table)[:3] == ["line 1", "line 3", "line 4"]


def test_json_may_be_a_list_or_lines_whatever_its_name_says(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"a": 1}, 7]')
    assert rows(open_table(str(path)), "a") == [{"a": 1}, BadRow("row 2", "not an object, but int")]
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert rows(open_table(str(path)), "a") == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": \n')
    assert isinstance(rows(open_table(str(path)), "a")[1], BadRow)
    path.write_text('{"a": 1}')
    assert rows(open_table(str(path)), "a") == [{"a": 1}]


def test_rows_of_csv_count_from_one_without_the_header(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\ny"\r\n\r\n1\r\n1,2,3\r\n3,2\r\n')
    table = open_table(str(path))
    assert table.columns == ["a", "b"]
    assert rows(table) == [
        {"a": "1", "b": "x\ny"},
        BadRow("row 2", "1 values for 2 columns"),
        BadRow("row 3", "3 values for 2 columns"),
        {"a": "3", "b": "2"},
    ]
    assert places(table)[3] == "row 4"


def test_lines_may_end_as_on_any_system(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    for end in (b"\n", b"\r\n", b"\r"):
        path.write_bytes(end.join([b"a,b", '1,"x\u2028y"'.encode(), b"3,4", b""]))
        assert rows(open_table(str(path))) == [
            {"a": "1", "b": "x\u2028y"},
            {"a": "3", "b": "4"},
        ]


def test_a_row_of_csv_that_cannot_be_read_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('context,query\na,b\n"a"x,b\nc,d\n', "utf-8")
    assert rows(open_table(str(path))) == [
        {"context": "a", "query": "b"},
        BadRow("row 2", "',' expected after '\"'"),
        {"context": "c", "query": "d"},
    ]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('"a,b', "the quote that opens on line 3 is never closed"),
        ('a,"b', "the quote that opens on line 3 is never closed"),
    ],
)
def test_a_quote_that_is_never_closed_costs_one_row(
    broken: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "data.csv"
    good = [f"c{i},d{i}" for i in range(50)]
    path.write_text("\n".join(["context,query", "a,b", broken, *good]), "utf-8")
    expected = [{"context": f"c{i}", "query": f"d{i}"} for i in range(50)]
    found = rows(open_table(str(path)))
    assert found == [{"context": "a", "query": "b"}, BadRow("row 2", reason), *expected]


def test_a_quote_that_a_later_row_closes_costs_no_row_between(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    good = [f"c{i},d{i}" for i in range(20)]
    path.write_text("\n".join(["x,y", '"a,b', *good, 'e,"f, g"', "h,i"]), "utf-8")
    found = rows(open_table(str(path)))
    assert [row for row in found if not isinstance(row, BadRow)] == [
        *({"x": f"c{i}", "y": f"d{i}"} for i in range(20)),
        {"x": "e", "y": "f, g"},
        {"x": "h", "y": "i"},
    ]
    assert len(found) == 23


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_latin_1_is_called_so_and_can_be_read(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"data.{kind}", [{"a": "ok", "b": "x"}])
    line = {"csv": "Café,Zoë\n", "tsv": "Café\tZoë\n", "jsonl": '{"a": "Café", "b": "Zoë"}\n'}[kind]
    path.write_bytes(path.read_bytes() + line.encode("latin-1"))
    good, bad = rows(open_table(str(path)))
    assert good == {"a": "ok", "b": "x"} and isinstance(bad, BadRow)
    assert bad.reason.startswith("not UTF-8 at byte ") and "Latin-1" in bad.reason
    assert "Café" in bad.reason and "encoding" in bad.reason
    assert rows(open_table(str(path), encoding="latin-1"))[1] == {"a": "Café", "b": "Zoë"}


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json"])
def test_utf_16_is_known_by_its_first_bytes(kind: str, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path / f"data.{kind}", ROWS)
    path.write_bytes(path.read_text("utf-8").encode("utf-16"))
    assert rows(open_table(str(path))) == ROWS


def test_an_encoding_that_there_is_not_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "data.jsonl", ROWS)
    for encoding in ("latin-99", "hex"):
        with pytest.raises(InputError, match=f"encoding='{encoding}': there is none"):
            open_table(str(path), encoding=encoding)


def test_a_number_that_is_too_long_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"query": ' + "9" * 5_000 + "}\n", "utf-8")
    (row,) = rows(open_table(str(path)))
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
        ("a.csv", b"\xe9,b\n", "a.csv, line 1: not UTF-8 at byte 0 "),
        ("a.json", b"{", "a.json is not JSON: "),
        ("a.json", b'"x"', "a.json holds str, not a list of rows"),
        ("a.json", b"\xe9", "a.json: not UTF-8 at byte 0 "),
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


@pytest.mark.parametrize(
    "suffix", [*FILE_SUFFIXES, ".parquet", ".jsonl.gz", ".csv.xz", "/nothing", ""]
)
def test_a_file_that_is_not_there_is_named_and_not_looked_for_on_the_hub(
    suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / f"absent{suffix}"
    with pytest.raises(InputError, match="No such file or directory") as error:
        open_table(str(path))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("name", ["data.txt", "data.xlsx", "data", "data.csv.zst"])
def test_a_file_of_another_kind_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=r"its name ends with none of \.jsonl, ") as error:
        open_table(str(tmp_path / name))
    assert name in str(error.value)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "data.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cannot read data\.parquet"):
        open_table(str(path))


class CountingFile(io.BytesIO):
    """Bytes that were read, by where they are."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.count = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content


def test_of_a_parquet_file_only_what_is_asked_for_is_read(tmp_path: Path) -> None:
    columns = {
        "context": [f"Fact {i}." for i in range(4_000)],
        "query": ["What?"] * 4_000,
        "heavy": [f"{i}" * 500 for i in range(4_000)],
    }
    path = tmp_path / "data.parquet"
    parquet.write_table(pyarrow.table(columns), path, row_group_size=100, compression="none")
    opened: list[CountingFile] = []

    class Counting(MemoryFileSystem):  # type: ignore[misc]
        protocol = "counting"
        cachable = False

        def _open(self, name: str, mode: str = "rb", **_: Any) -> CountingFile:
            opened.append(CountingFile(path.read_bytes()))
            return opened[-1]

    from pyarrow import dataset, fs

    MemoryFileSystem().pipe_file("/data.parquet", path.read_bytes())
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(Counting()))
    whole = dataset.dataset("/data.parquet", format="parquet", filesystem=filesystem)
    table = tables.ParquetTable("data.parquet", whole)
    assert table.num_rows == 4_000
    found = table.take([3_999, 5], ["context", "query"])
    assert found == [
        ("row 4000", {"context": "Fact 3999.", "query": "What?"}),
        ("row 6", {"context": "Fact 5.", "query": "What?"}),
    ]
    read = sum(file.count for file in opened)
    assert 0 < read < path.stat().st_size / 10


def test_without_shuffling_no_row_after_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [ROWS[0]] * 5) + "{broken\n")
    found = load_examples(JobSettings(out="x", dataset=str(path), limit=3, held_out=2))
    assert len(found.examples) == 5 and len(found.held_out) == 2
    with pytest.raises(InputError, match="line 6: not JSON"):
        load_examples(JobSettings(out="x", dataset=str(path), limit=3, held_out=3))


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
    assert places(table) == ["row 1", "row 2"]


@pytest.mark.parametrize(
    ("split", "kept"),
    [
        ("train[:10]", range(10)),
        ("train[10:20]", range(10, 20)),
        ("train[-20%:]", range(24, 30)),
        ("train[28:]+train[:2]", [28, 29, 0, 1]),
    ],
)
@pytest.mark.parametrize("several", [True, False])
def test_a_split_that_datasets_saved_may_be_cut_and_joined(
    several: bool, split: str, kept: Sequence[int], tmp_path: Path
) -> None:
    numbered = [{"query": str(number)} for number in range(30)]
    whole = datasets.Dataset.from_list(numbered)
    saved = datasets.DatasetDict(train=whole, test=whole.select([0])) if several else whole
    saved.save_to_disk(tmp_path)
    table = open_table(str(tmp_path), split=split)
    assert rows(table) == [numbered[number] for number in kept]


@pytest.mark.parametrize("split", ["nope", "test[:1]", "train[:"])
@pytest.mark.parametrize("several", [True, False])
def test_a_split_that_is_not_there_is_one_line(several: bool, split: str, tmp_path: Path) -> None:
    saved = datasets.Dataset.from_list(ROWS)
    (datasets.DatasetDict(train=saved) if several else saved).save_to_disk(tmp_path)
    with pytest.raises(InputError, match="cannot load dataset") as error:
        open_table(str(tmp_path), split=split)
    assert split.partition("[:1]")[0] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["data.jsonl", "data.parquet"])
def test_a_split_of_a_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"split='train\[:10\]': a file has no splits") as error:
        open_table(str(tmp_path / name), split="train[:10]")
    assert error.value.param == "split"


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
