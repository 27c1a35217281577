"""Small workbooks that ask for gigabytes: each ends in one error, in the memory of a small one."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path

import openpyxl
import pytest

from medunlearn_client.records import bounded_workbook, read_records, spreadsheets
from medunlearn_common.errors import MedunlearnError

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHEET, STYLES, STRINGS = "xl/worksheets/sheet1.xml", "xl/styles.xml", "xl/sharedStrings.xml"
TYPES = "[Content_Types].xml"
PART_BYTES = 60 << 20
MOST_MIB = 600
# Peak memory beyond what imports take, in MiB. Of texts an eighth is enough: as many as are read
# take openpyxl 19 s and 390 MiB.
READ_ONE = """
import resource, sys
from pathlib import Path
from medunlearn_client.records import bounded_workbook, read_records
from medunlearn_common.errors import MedunlearnError
bounded_workbook.MAX_STRING_ELEMENTS //= 8
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(read_records(Path(sys.argv[1]))), end=" ")
except MedunlearnError as error:
    print(error.code, end=" ")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def parts() -> dict[str, bytes]:
    """Those of a workbook of one record."""
    book, stream = openpyxl.Workbook(), io.BytesIO()
    for row in (["id", "question", "answer"], ["r1", "Who was seen?", "Zoë"]):
        book.worksheets[0].append(row)
    book.save(stream)
    with zipfile.ZipFile(stream) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    found[STRINGS] = f'<sst xmlns="{MAIN}"></sst>'.encode()
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    found[TYPES] = found[TYPES].replace(
        b"</Types>", f'<Override PartName="/{STRINGS}" ContentType="{kind}"/></Types>'.encode())
    return found


def workbook(path: Path, name: str = "", before: bytes = b"", added: bytes = b"") -> Path:
    """A workbook, with something added to one part before its last such tag."""
    found = parts()
    if name:
        start, tag, end = found[name].rpartition(before)
        assert tag
        found[name] = start + added + tag + end
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, data in found.items():
            archive.writestr(part, data)
    return path


def many(element: bytes, total: int = PART_BYTES) -> bytes:
    return element * (total // len(element))


def code_of(path: Path) -> str:
    with pytest.raises(MedunlearnError) as caught:
        read_records(path)
    return caught.value.code


def test_the_workbook_itself_is_read(tmp_path: Path) -> None:
    assert [r.answer for r in read_records(workbook(tmp_path / "a.xlsx"))] == ["Zoë"]


@pytest.mark.skipif(sys.platform == "darwin", reason="counts memory in bytes")
@pytest.mark.parametrize(
    ("name", "before", "added", "code"),
    [
        (SHEET, b"</sheetData>", b'<row r="3">' + many(b"<c/>") + b"</row>",
         "DATA_ITEM_TOO_LARGE"),
        (SHEET, b"</sheetData>",
         b'<row r="3"><c t="inlineStr"><is><t>' + many(b"x") + b"</t></is></c></row>",
         "DATA_ITEM_TOO_LARGE"),
        (SHEET, b"</sheetData>", b"<!--" + many(b'<row r="3">') + b"-->", "DATA_ITEM_TOO_LARGE"),
        (SHEET, b"</worksheet>", b"<hyperlinks>" + many(b"<hyperlink/>") + b"</hyperlinks>",
         "DATA_ITEM_TOO_LARGE"),
        (STRINGS, b"</sst>", many(b"<si/>"), "DATA_ZIP_BOMB"),
        (STYLES, b"</cellXfs>", many(b"<xf/>"), "DATA_ZIP_BOMB"),
    ],
    ids=["cells", "text", "comment", "links", "strings", "styles"],
)
def test_a_small_file_that_asks_for_gigabytes(
    tmp_path: Path, name: str, before: bytes, added: bytes, code: str
) -> None:
    bomb = workbook(tmp_path / "bomb.xlsx", name, before, added)
    assert bomb.stat().st_size < 1 << 20
    done = subprocess.run([sys.executable, "-c", READ_ONE, str(bomb)], check=True,
                          capture_output=True, text=True)
    found, peak = done.stdout.split()
    assert found == code and int(peak) < MOST_MIB


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such that a few elements are counted, and 20 kB are too much of a row."""
    monkeypatch.setattr(bounded_workbook, "_HARMLESS_BYTES", 0)
    monkeypatch.setattr(bounded_workbook, "MAX_ROW_ELEMENTS", 50)
    monkeypatch.setattr(bounded_workbook, "MAX_ROW_BYTES", 20_000)


@pytest.mark.usefixtures("small_limits")
def test_what_only_looks_like_a_row_begins_none(tmp_path: Path) -> None:
    """Of another namespace, or as text: what is held goes on."""
    rows = b"".join(b'<row r="%d"><c/></row>' % n for n in range(3, 200))
    assert len(read_records(workbook(tmp_path / "a.xlsx", SHEET, b"</sheetData>", rows))) == 1
    for cell in (b'<x:row xmlns:x="urn:other"/>', b"<c><![CDATA[<row>]]></c>"):
        row = b'<row r="3">' + cell * 60 + b"</row>"
        bomb = workbook(tmp_path / "b.xlsx", SHEET, b"</sheetData>", row)
        assert code_of(bomb) == "DATA_ITEM_TOO_LARGE"


@pytest.mark.usefixtures("small_limits")
@pytest.mark.parametrize("added", [b"<c>", b"<!DOCTYPE x>"])
def test_damage_stays_damage(tmp_path: Path, added: bytes) -> None:
    book = workbook(tmp_path / "a.xlsx", SHEET, b"</sheetData>", added)
    assert code_of(book) == "DATA_SPREADSHEET_DAMAGED"


@pytest.mark.parametrize("part", [*parts()])
def test_each_damaged_part_is_refused_or_not_needed(part: str, tmp_path: Path) -> None:
    """Whichever XML parser openpyxl has for it."""
    found, book = parts(), tmp_path / "a.xlsx"
    whole = found[part]
    for damaged in (b"", b"junk", whole[: len(whole) // 2], b"\xff\xfe" + whole):
        with zipfile.ZipFile(book, "w") as archive:
            for name, data in (found | {part: damaged}).items():
                archive.writestr(name, data)
        try:
            assert [r.answer for r in read_records(book)] == ["Zoë"]
        except MedunlearnError as error:
            assert error.code == "DATA_SPREADSHEET_DAMAGED"


def test_a_table_of_strings_named_like_a_sheet_is_no_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sheets may be long; what is held as a whole may not, whatever it is called."""
    for module in (bounded_workbook, spreadsheets):
        monkeypatch.setattr(module, "MAX_PART_BYTES", 20_000)
    book = workbook(tmp_path / "a.xlsx", STRINGS, b"</sst>", many(b"<si/>", 30_000))
    renamed = tmp_path / "b.xlsx"
    with zipfile.ZipFile(book) as old, zipfile.ZipFile(renamed, "w") as new:
        for name in old.namelist():
            data = old.read(name).replace(STRINGS.encode(), b"xl/worksheets/sheet2.xml")
            new.writestr(name.replace(STRINGS, "xl/worksheets/sheet2.xml"), data)
    assert code_of(book) == code_of(renamed) == "DATA_ZIP_BOMB"
