"""Workbooks and Parquet files inside archives: read within bounds, and nothing left behind."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from open_files import all_closed_again

from medunlearn_client.records import archives, read_records, streams
from medunlearn_common.errors import MedunlearnError

ROWS = [{"id": f"r{n}", "question": f"Who is {n}?", "answer": f"Name {n}"} for n in range(30)]


def workbook() -> bytes:
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for cells in [list(ROWS[0]), *(list(row.values()) for row in ROWS)]:
        book.worksheets[0].append(cells)
    book.save(stream)
    return stream.getvalue()


def parquet() -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), stream, row_group_size=7)
    return stream.getvalue()


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


ARCHIVES = {"a.zip": zip_of, "a.tar.gz": tar_of}
MEMBERS = {"rows.xlsx": workbook, "rows.parquet": parquet}


def code_of(path: Path, **changes: Any) -> str:
    with pytest.raises(MedunlearnError) as caught:
        read_records(path, **changes)
    return caught.value.code


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("in_memory", [True, False], ids=["in-memory", "spooled"])
def test_members_that_are_read_back_and_forth(
    tmp_path: Path, archive: str, member: str, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    if not in_memory:
        monkeypatch.setattr(archives, "_HELD_IN_MEMORY_BYTES", 16)
    later = {"later.jsonl": json.dumps({**ROWS[0], "id": "later"}).encode()}
    path = ARCHIVES[archive](tmp_path / archive, {member: MEMBERS[member](), **later})
    assert [r.record_id for r in read_records(path)] == [*(row["id"] for row in ROWS), "later"]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("member", MEMBERS)
def test_a_member_that_expands_too_far(
    tmp_path: Path, archive: str, member: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive bomb around a workbook or Parquet file fills neither memory nor disk."""
    data = MEMBERS[member]()
    bomb = ARCHIVES[archive](tmp_path / archive, {member: data + b" " * (30 << 20)})
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    assert code_of(bomb) == "DATA_ZIP_BOMB"
    monkeypatch.undo()
    monkeypatch.setattr(archives, "MAX_HELD_BYTES", 1 << 20)
    assert code_of(bomb) == "DATA_ITEM_TOO_LARGE"


def test_a_workbook_bomb_inside_an_archive(tmp_path: Path) -> None:
    """The parts of the inner workbook are checked as those of one that lies alone."""
    stream = io.BytesIO(workbook())
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as book:
        book.writestr("xl/other.xml", b" " * (70 << 20))
    path = zip_of(tmp_path / "a.zip", {"rows.xlsx": stream.getvalue()})
    assert code_of(path) == "DATA_ZIP_BOMB"


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("cut", [4, 300, -8])
def test_cut_members_are_one_clear_error(tmp_path: Path, archive: str, cut: int) -> None:
    path = ARCHIVES[archive](tmp_path / archive, {"rows.parquet": parquet()[:cut]})
    assert code_of(path) == "DATA_PARQUET_DAMAGED"
    path = ARCHIVES[archive](tmp_path / archive, {"rows.xlsx": workbook()[:cut]})
    assert code_of(path) in ("DATA_SPREADSHEET_DAMAGED", "DATA_ARCHIVE_DAMAGED")


def test_an_archive_named_as_a_workbook_is_still_refused(tmp_path: Path) -> None:
    """Archives in archives are refused, whatever they call themselves."""
    inner = zip_of(tmp_path / "inner.zip", {"a.jsonl": json.dumps(ROWS[0]).encode()}).read_bytes()
    path = zip_of(tmp_path / "a.zip", {"rows.xlsx": inner})
    assert code_of(path) == "DATA_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("part", ["docProps/core.xml", "xl/worksheets/sheet1.xml"])
@pytest.mark.parametrize("archive", [None, *ARCHIVES])
def test_damage_inside_a_workbook_that_is_whole_outside(
    tmp_path: Path, archive: str | None, part: str
) -> None:
    """Found by fuzzing: a part that does not decompress ended in an error below ours."""
    data = bytearray(workbook())
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        info = book.getinfo(part)
    start = info.header_offset + 30 + len(part)
    data[start : start + 4] = b"\xff" * 4  # a kind of deflate block that does not exist
    if archive is None:
        path = tmp_path / "rows.xlsx"
        path.write_bytes(data)
    else:
        path = ARCHIVES[archive](tmp_path / archive, {"rows.xlsx": bytes(data)})
    with all_closed_again(tmp_path), pytest.raises(MedunlearnError) as caught:
        read_records(path)
    assert caught.value.code == "DATA_SPREADSHEET_DAMAGED"


def test_a_member_without_a_name_is_no_data(tmp_path: Path) -> None:
    """Found by fuzzing: zipfile looks at the last letter of the name, whether there is one or not.
    """
    member = zipfile.ZipInfo()
    member.filename = ""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, b"{}")
        archive.writestr("a.jsonl", json.dumps(ROWS[0]))
    assert len(read_records(path)) == 1


@pytest.mark.parametrize("place", ["directory", "member"])
@pytest.mark.parametrize("name", ["a.zip", "rows.xlsx"])
def test_a_name_that_is_not_in_the_encoding_it_claims(
    tmp_path: Path, name: str, place: str
) -> None:
    """Found by fuzzing: it ended in a UnicodeDecodeError."""
    members = {"ä.jsonl": json.dumps(ROWS[0]).encode()}
    if name == "rows.xlsx":
        members["xl/workbook.xml"] = b"<workbook/>"
    data = bytearray(zip_of(tmp_path / name, members).read_bytes())
    find = data.find if place == "member" else data.rfind
    data[find("ä".encode())] = 0xFF
    (tmp_path / name).write_bytes(data)
    with all_closed_again(tmp_path):
        assert code_of(tmp_path / name) in ("DATA_ARCHIVE_DAMAGED", "DATA_SPREADSHEET_DAMAGED")
