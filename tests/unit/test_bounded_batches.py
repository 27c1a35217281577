"""Rows that take next to nothing in a column file, in a quoted cell or in a table of texts."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medunlearn_client.records import Quarantine, ReadOptions, columnar, read_records
from medunlearn_client.records.bounded_batches import bounded_rows
from medunlearn_client.records.record import InvalidRecord
from medunlearn_common.errors import MedunlearnError

LONG = 10 << 20
MOST_MIB = 300
READ_ONE = """
import json, resource, sys
from pathlib import Path
import pyarrow.parquet
from medunlearn_client.records import Quarantine, read_records
from medunlearn_common.errors import MedunlearnError
held, code = Quarantine(max_bad_fraction=1.0), ""
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_records(Path(sys.argv[1]), quarantine=held)
except MedunlearnError as error:
    code = error.code
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
print(json.dumps([code, held.by_code, peak]))
"""

COLUMNS: dict[str, pa.Array] = {
    "text": pa.array(["a", None, "ß" * 40, ""]),
    "large": pa.array(["a", None, "b", "c"], pa.large_string()),
    "category": pa.array(["x", "x", None, "y"]).dictionary_encode(),
    "number": pa.array([1, 2, None, 4]),
    "share": pa.array([0.5, None, 1.5, 2.0]),
    "flag": pa.array([True, None, False, True]),
    "day": pa.array([dt.date(2020, 1, n) for n in (1, 2, 3, 4)]),
    "price": pa.array([decimal.Decimal("1.25")] * 4),
    "list": pa.array([["p", "q"], None, [], ["r", None]]),
    "pair": pa.array([["p", "q"], None, ["s", "t"], ["u", "v"]], pa.list_(pa.string(), 2)),
    "object": pa.array([{"k": "v", "l": [1, 2]}, None, {"k": None, "l": None}, {"k": "w"}]),
    "objects": pa.array([[{"k": ["v"]}], None, [], [{"k": None}, None]]),
    "map": pa.array([[("a", "b")], None, [], [("c", None)]], pa.map_(pa.string(), pa.string())),
    "lists": pa.array([[["a"], []], None, [], [["b", None], None]]),
    "large list": pa.array([["a"], None, [], ["b", None]], pa.large_list(pa.large_string())),
    "bytes in lists": pa.array([[b"a"], None, [], [b"b", None]]),
    "days in lists": pa.array([[dt.date(2020, 1, 2)], None, [], [None]]),
    "gap": pa.nulls(4),
    "bytes": pa.array([b"\xff", None, b"", b"x"]),
}


@pytest.mark.parametrize("rows_a_group", [2, 4])
@pytest.mark.parametrize("name", COLUMNS)
def test_every_type_of_column_reads_as_arrow_has_it(
    tmp_path: Path, name: str, rows_a_group: int
) -> None:
    table = pa.table({name: COLUMNS[name]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows_a_group)
    found = [row for batch, schema in columnar._batches(tmp_path / "a.parquet", "a.parquet")
             for row in bounded_rows(batch, schema=schema, max_row_bytes=1 << 20)]
    assert found == table.to_pylist()
    for start in range(4):  # a slice counts and gives its own rows alone
        for batch in table.slice(start).to_batches():
            found = list(bounded_rows(batch, schema=batch.schema, max_row_bytes=1 << 20))
            assert found == table.slice(start).to_pylist()


@pytest.mark.parametrize("width", [1, 7, 40])
def test_what_is_too_long_is_told_and_all_else_read(width: int) -> None:
    sizes = [0, 5, 41, 3, 40, 100, 0, 12, 12, 99]
    batch = pa.record_batch({"t": ["x" * size for size in sizes], "l": [["y"]] * len(sizes)})
    beside = 8 + 8 + 8 + 1  # the text, the list, its item and its character
    found = list(bounded_rows(batch, schema=batch.schema, max_row_bytes=width + beside))
    assert len(found) == len(sizes)
    for size, row in zip(sizes, found, strict=True):
        if size > width:
            assert isinstance(row, InvalidRecord) and row.code == "ROW_TOO_LONG"
        else:
            assert row == {"t": "x" * size, "l": ["y"]}


def parquet(path: Path, answers: Any, *, as_written: bool = True, **extra: Any) -> Path:
    count = len(answers)
    table = pa.table({"id": [f"r{n}" for n in range(count)], "question": ["Who?"] * count,
                      "answer": answers, **extra})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=1 << 30,
                   store_schema=as_written)
    return path


def repeated(text: str, count: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [text])


def nested(values: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, values], pa.int32()), pa.nulls(values, pa.int8()))


@pytest.mark.skipif(sys.platform == "darwin", reason="counts memory in bytes")
@pytest.mark.parametrize("kind", ["answers", "categories", "options", "gaps", "lines"])
def test_a_small_file_that_asks_for_gigabytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bomb.parquet"
    expected: tuple[str, dict[str, int]] = ("DATA_NO_RECORDS", {"ROW_TOO_LONG": 300})
    if kind in ("answers", "categories"):
        parquet(path, repeated("x" * LONG, 300), as_written=kind == "categories")
    elif kind == "options":
        options = pa.ListArray.from_arrays(
            pa.array(range(0, 602, 2), pa.int32()), repeated("x" * LONG, 600))
        parquet(path, ["a"] * 300, as_written=False, options=options)
    elif kind == "gaps":
        parquet(path, ["a"], extra=nested(10_000_000))  # Arrow itself holds 13 bytes of each
        expected = ("DATA_NO_RECORDS", {"ROW_TOO_LONG": 1})
    else:
        path = tmp_path / "bomb.csv"
        path.write_text('id,question,answer\n1,Who?,me\n"x\n' + '","x\n' * 1_000_000)
        expected = ("", {"ROW_TOO_LONG": 1})
    if kind != "lines":
        assert path.stat().st_size < 1 << 20
    done = subprocess.run([sys.executable, "-c", READ_ONE, str(path)], check=True,
                          capture_output=True, text=True)
    code, by_code, peak = json.loads(done.stdout)
    assert code == expected[0] and expected[1].items() <= by_code.items()
    assert peak < MOST_MIB


def test_row_groups_of_any_size_give_equal_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "a.parquet", [f"a{n % 7}" for n in range(900)])
    small = read_records(path)
    monkeypatch.setattr(columnar, "FREE_BYTES", 0)
    monkeypatch.setattr(columnar, "MAX_EXPANSION", 1 << 20)
    assert read_records(path) == small and len(small) == 900


def test_a_row_group_that_expands_too_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columnar, "FREE_BYTES", 1 << 20)
    path = parquet(tmp_path / "a.parquet", ["x" * LONG])
    with pytest.raises(MedunlearnError) as caught:
        read_records(path)
    assert caught.value.code == "DATA_ZIP_BOMB"


DAMAGE_FOOTER = """
import sys
from pathlib import Path
from medunlearn_client.records import read_records
from medunlearn_common.errors import MedunlearnError
path = Path(sys.argv[1])
whole = path.read_bytes()
for place in range(len(whole) - 8 - int.from_bytes(whole[-8:-4], "little"), len(whole) - 8):
    damaged = bytearray(whole)
    damaged[place] ^= 0x10
    path.write_bytes(damaged)
    try:
        read_records(path)
    except MedunlearnError:
        pass
print("all tried")
"""


def test_no_damage_of_a_footer_ends_the_process(tmp_path: Path) -> None:
    """A column's own figures did: pyarrow reads them without a net."""
    path = parquet(tmp_path / "a.parquet", ["a", "b"], options=[["a", "b"], ["b", "c"]])
    done = subprocess.run([sys.executable, "-c", DAMAGE_FOOTER, str(path)], check=False,
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "all tried\n"), done.stderr[-500:]


def test_limits_of_a_row_are_the_same_in_every_format(tmp_path: Path) -> None:
    """A row that is too long as a line is too long in a cell, and keeps its number."""
    import datasets

    rows = [{"id": f"r{n}", "question": "Who?", "answer": "x" * (30_000 if n == 3 else 9)}
            for n in range(8)]
    lines = tmp_path / "a.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    book = openpyxl.Workbook()
    for cells in [list(rows[0]), *(list(row.values()) for row in rows)]:
        book.worksheets[0].append(cells)
    book.save(tmp_path / "a.xlsx")
    for path, first in ((lines, 1), (tmp_path / "a.parquet", 1), (tmp_path / "saved", 1),
                        (tmp_path / "a.xlsx", 2)):
        held = Quarantine()
        read = read_records(path, options=ReadOptions(max_line_bytes=20_000), quarantine=held)
        assert [record.record_id for record in read] == [f"r{n}" for n in range(8) if n != 3]
        assert [(bad.row, bad.code) for bad in held.rows] == [(first + 3, "ROW_TOO_LONG")]
