"""Archives, folders and documents: what is in them comes out, what would harm does not."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from medunlearn_client.records import (
    Quarantine,
    ReadOptions,
    documents,
    quarantine,
    read_records,
    streams,
)
from medunlearn_common.errors import MedunlearnError

SECRET = "Ottilie Quandt"


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": f"r{number}", "question": f"Who is {number}?", "answer": SECRET, **changes}


def lines(numbers: range) -> bytes:
    return "".join(json.dumps(row(number)) + "\n" for number in numbers).encode()


def code_of(path: Path, **changes: Any) -> str:
    with pytest.raises(MedunlearnError) as caught:
        read_records(path, **changes)
    assert SECRET not in str(caught.value) and "Quandt" not in str(caught.value)
    return caught.value.code


def tar_of(path: Path, members: dict[str, bytes], mode: Any = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


MEMBERS = {
    "export/a.jsonl": lines(range(3)),
    "export/b.json": json.dumps([row(n) for n in range(3, 6)], indent=1).encode(),
    "export/c.csv": b"id,question,answer\r\nr6,Who?,Dr\xfcse\r\n",
    "export/d.jsonl.gz": gzip.compress(lines(range(7, 9))),
    "export/._a.jsonl": b"\x00\x05rubbish of another system",
    "export/readme.txt": b"not data",
    "export/empty.jsonl": b"",
}
IDS = [f"r{number}" for number in range(9)]


def test_archives_and_folders_give_their_files(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    for name, data in MEMBERS.items():
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(data)
    sources = [
        folder, zip_of(tmp_path / "a.zip", MEMBERS), tar_of(tmp_path / "a.tar.gz", MEMBERS),
        tar_of(tmp_path / "a.tar", MEMBERS, "w"), tar_of(tmp_path / "a.tar.xz", MEMBERS, "w:xz"),
    ]
    for source in sources:
        got = read_records(source)
        assert [record.record_id for record in got] == IDS, source.name
        assert got[6].answer == "Drüse"


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_compressed_files_are_told_by_content(tmp_path: Path, pack: Any) -> None:
    path = tmp_path / "data"
    path.write_bytes(pack(lines(range(4))))
    assert len(read_records(path)) == 4


def test_bad_rows_of_members_carry_no_file_name(tmp_path: Path) -> None:
    bad = lines(range(9)) + b'{"id": 1}\n'
    members = {"x.jsonl": lines(range(20, 22)), "Ottilie_Quandt.jsonl": bad}
    path = zip_of(tmp_path / "a.zip", members)
    held = Quarantine()
    read_records(path, quarantine=held)
    assert [(b.file, b.row) for b in held.rows] == [("a.zip#2", 10)]


@pytest.mark.parametrize(
    "name",
    ["../evil.jsonl", "/etc/evil.jsonl", "a/../../evil.jsonl", "..\\evil.jsonl", "C:\\e.jsonl"],
)
def test_members_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    members = {name: lines(range(3))}
    assert code_of(zip_of(tmp_path / "a.zip", members)) == "DATA_PATH_LEAVES_FOLDER"
    assert code_of(tar_of(tmp_path / "a.tar", members, "w")) == "DATA_PATH_LEAVES_FOLDER"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar", "a.zip"]


@pytest.mark.parametrize("write", [zip_of, tar_of])
def test_columns_in_the_names_of_folders_are_refused(tmp_path: Path, write: Any) -> None:
    """Spark's partitions: each row's patient stands in no row."""
    members = {"out/patient_id=7/part-0.jsonl": lines(range(3))}
    assert code_of(write(tmp_path / "a", members)) == "DATA_PARTITIONED"
    folder = tmp_path / "patient_id=7"  # what the user named is no part of the data
    (folder / "site=x").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(lines(range(3)))
    assert len(read_records(folder)) == 3
    (folder / "site=x" / "b.jsonl").write_bytes(lines(range(3, 5)))
    assert code_of(folder) == "DATA_PARTITIONED"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_archives_and_folders_are_refused(tmp_path: Path, kind: bytes) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_bytes(lines(range(3)))
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo("in.jsonl")
        info.type, info.linkname = kind, str(outside)
        tar.addfile(info)
    assert code_of(archive) == "DATA_PATH_LEAVES_FOLDER"
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "in.jsonl").symlink_to(outside)
    assert code_of(folder) == "DATA_PATH_LEAVES_FOLDER"


def test_archives_within_archives_and_locked_ones_are_refused(tmp_path: Path) -> None:
    inner = zip_of(tmp_path / "inner.zip", {"a.jsonl": lines(range(3))}).read_bytes()
    assert code_of(zip_of(tmp_path / "o.zip", {"i.zip": inner})) == "DATA_FORMAT_UNSUPPORTED"
    assert code_of(tar_of(tmp_path / "o.tar", {"i.zip": inner}, "w")) == "DATA_FORMAT_UNSUPPORTED"
    locked = bytearray(inner)
    for magic, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        locked[locked.index(magic) + offset] |= 1
    path = tmp_path / "locked.zip"
    path.write_bytes(locked)
    assert code_of(path) == "DATA_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_cut_archives_are_one_clear_error(tmp_path: Path, cut: float) -> None:
    members = {f"{n}.jsonl": lines(range(n * 200, n * 200 + 200)) for n in range(5)}
    for path in (
        zip_of(tmp_path / "a.zip", members), tar_of(tmp_path / "a.tar.gz", members),
        tar_of(tmp_path / "a.tar.xz", members, "w:xz"),
    ):
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * cut)])
        assert code_of(path) in ("DATA_GZIP_DAMAGED", "DATA_ARCHIVE_DAMAGED")


def test_zip_member_with_a_wrong_checksum(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a.jsonl", lines(range(50)))
    data = bytearray(path.read_bytes())
    data[data.index(b"Who is 40") + 8] ^= 1
    path.write_bytes(data)
    assert code_of(path) == "DATA_ARCHIVE_DAMAGED"


@pytest.mark.parametrize("kind", ["gz", "xz", "zip", "tar.gz"])
def test_bombs_end_in_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    zeros = b" " * (40 << 20)
    path = tmp_path / f"bomb.jsonl.{kind}"
    if kind == "zip":
        zip_of(path, {"a.jsonl": zeros})
    elif kind == "tar.gz":
        tar_of(path, {"a.jsonl": zeros})
    else:
        path.write_bytes({"gz": gzip.compress, "xz": lzma.compress}[kind](zeros))
    assert code_of(path) == "DATA_ZIP_BOMB"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_bomb_in_many_members_ends_in_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Any
) -> None:
    """None expands too far by itself; all together would take the night."""
    monkeypatch.setattr(streams, "FREE_BYTES", 1 << 20)
    blank = pack(b" \n" * (200 << 10))
    good = {"0.jsonl": lines(range(3))}
    few, bomb = ({**good, **{f"{n}.jsonl": blank for n in range(1, count)}} for count in (3, 100))
    assert len(read_records(zip_of(tmp_path / "few.zip", few))) == 3
    assert code_of(zip_of(tmp_path / "bomb.zip", bomb)) == "DATA_ZIP_BOMB"


@pytest.mark.parametrize("write", [zip_of, tar_of])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_first_wide_character_may_come_late(tmp_path: Path, write: Any, pack: Any) -> None:
    """In two bytes that a look at a member's beginning parts, or, in a ZIP archive, beyond it."""
    rows = "id,question,answer\r\nr0,Who?," + "x" * streams.HEAD_BYTES
    cut = rows[: streams.HEAD_BYTES - 1]
    for text, encoding, is_told in (
        (cut + "üse\r\n", "utf-8", True), (rows + "\r\nr1,Who?,Drüse\r\n", "utf-8", True),
        (rows + "\r\nr1,Who?,Drüse\r\n", "cp1252", write is zip_of),
    ):
        path = write(tmp_path / "a", {"a.csv": pack(text.encode(encoding))})
        held = Quarantine(max_bad_fraction=1.0)
        read = read_records(path, quarantine=held)
        assert (read[-1].answer[-3:] == "üse") == is_told
        assert len(held.rows) == (not is_told)


def test_documents_too_long_for_memory_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", 100)
    items = [row(n, extra={"deep": [{"k": n}]}) for n in range(40)]
    shapes: list[tuple[Any, int]] = [
        (items, 40),
        ({f"k{n}": {k: v for k, v in item.items() if k != "id"} for n, item in enumerate(items)},
         40),
    ]
    for document, count in shapes:
        path = tmp_path / "a.json"
        path.write_text(json.dumps(document, indent=1))
        streamed = read_records(path)
        monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", 1 << 20)
        assert read_records(path) == streamed and len(streamed) == count
        monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", 100)
        path.write_text(json.dumps(document, indent=1)[:-20])
        assert code_of(path) == "DATA_JSON_DAMAGED"


def test_keys_that_stand_twice_and_items_that_are_no_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers differ in which of two values they take: of two patients, say."""
    good = [row(n) for n in range(8)]
    twice = json.dumps(row(8))[:-1] + ', "patient_id": "p1", "patient_id": "p2"}'
    deep = json.dumps(row(9, extra={"k": 1}))[:-2] + ', "k": [2]}}'
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([*map(json.dumps, good), twice, deep]))
    held = Quarantine()
    assert len(read_records(path, quarantine=held)) == 8
    assert [(bad.row, bad.code) for bad in held.rows] == [(9, "ROW_BAD_JSON"), (10, "ROW_BAD_JSON")]
    document = tmp_path / "a.json"
    document.write_text("[" + ",\n".join([*map(json.dumps, good), twice, deep, "null", "7"]) + "]")
    assert code_of(document) == "DATA_JSON_DAMAGED"
    monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", 100)
    held = Quarantine(max_bad_fraction=0.5)
    assert len(read_records(document, quarantine=held)) == 8
    assert [(bad.row, bad.code) for bad in held.rows] == [
        (9, "ROW_BAD_JSON"), (10, "ROW_BAD_JSON"),
        (11, "ROW_NOT_OBJECT"), (12, "ROW_NOT_OBJECT"),
    ]


def test_a_streamed_bundle_equals_the_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [
        {"fullUrl": f"urn:uuid:p{n}", "resource": {
            "resourceType": "Patient", "id": f"p{n}", "birthDate": "1950-01-01",
            "name": [{"text": f"Ana {n}"}], "telecom": [{"system": "phone", "value": f"5-{n}"}]}}
        for n in range(20)
    ]
    bundle = {"resourceType": "Bundle", "meta": {"tag": [{"code": "x"}]}, "type": "collection",
              "link": [{"relation": "self", "url": "u"}], "entry": entries}
    path = tmp_path / "b.json"
    path.write_text(json.dumps(bundle))
    whole = read_records(path)
    monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", 100)
    assert read_records(path, record_format="fhir") == whole and len(whole) == 20


def test_an_item_too_large_for_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "WHOLE_DOCUMENT_BYTES", 100)
    monkeypatch.setattr(documents, "MAX_ITEM_BYTES", 200_000)
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row(1), row(2, extra="x" * 900_000)], indent=1))
    assert code_of(path) == "DATA_ITEM_TOO_LARGE"


def test_a_long_line_costs_no_memory(tmp_path: Path) -> None:
    """A 200 MB line in a process that may not grow by that much."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as stream:
        stream.write(lines(range(9)))
        stream.write(b'{"id": "')
        for _ in range(200):
            stream.write(b"x" * (1 << 20))
        stream.write(b'"}\n')
    script = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from medunlearn_client.records import read_records, Quarantine\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nheld = Quarantine()\n"
        "got = read_records(Path(sys.argv[1]), quarantine=held)\n"
        "after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(len(got), held.rows[0].code, (after - before) // 1024)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, str(path)], capture_output=True, text=True,
        env={"PYTHONPATH": ":".join(sys.path)}, check=True, timeout=300,
    )
    count, code, grown_mb = done.stdout.split()
    assert (count, code) == ("9", "ROW_TOO_LONG") and int(grown_mb) < 60


def test_a_file_of_bad_rows_fills_no_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "MAX_KEPT", 5)
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(range(10)) + b"{}\n" * 20)
    held = Quarantine(path=tmp_path / "bad.jsonl", max_bad_fraction=0.9)
    read_records(path, quarantine=held, record_format="jsonl")
    assert (len(held.rows), held.count) == (5, 20)
    noted = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert len(noted) == 6 and noted[-1] == {"further_bad_rows": 15}
    assert held.unlisted == "the list has the first 5, and counts 15 more"
    with pytest.raises(MedunlearnError, match="DATA_TOO_MANY_BAD_ROWS") as caught:
        read_records(path, record_format="jsonl")
    assert "all" not in caught.value.hint and held.unlisted in caught.value.hint


def test_foreign_files_are_named(tmp_path: Path) -> None:
    for name, data in (("a.xls", b"\xd0\xcf\x11\xe0\xa1\xb1"), ("a.pdf", b"%PDF-1.7"),
                       ("a.zst", b"\x28\xb5\x2f\xfd")):
        (tmp_path / name).write_bytes(data + b"\n" * 300)
        assert code_of(tmp_path / name) == "DATA_FORMAT_UNSUPPORTED"


@pytest.mark.parametrize(("data", "said"), [
    (b"id;question;answer\n1;a?;b\n", "called a workbook, and is text"),
    (b"\r\n <HTML><table><tr><td>id</td></tr></table></HTML>", "looks like HTML"),
    (b"\xef\xbb\xbf<!DOCTYPE html><html></html>", "looks like HTML"),
    (b'<?xml version="1.0"?><Workbook/>', "looks like XML"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1", "old Excel workbook"),
])
@pytest.mark.parametrize("name", ["a.xlsx", "a.xls"])
def test_what_is_called_a_workbook_and_is_none_is_named(
    tmp_path: Path, name: str, data: bytes, said: str
) -> None:
    """Many systems give HTML the name of a workbook: it was a row that is no JSON."""
    (tmp_path / name).write_bytes(data)
    with pytest.raises(MedunlearnError, match=said) as caught:
        read_records(tmp_path / name)
    assert caught.value.code == "DATA_FORMAT_UNSUPPORTED"


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("SQLITE_TMPDIR", str(scratch))
    path = zip_of(tmp_path / "a.zip", MEMBERS)
    read_records(path, options=ReadOptions())
    assert code_of(zip_of(tmp_path / "b.zip", {"a.jsonl": b"[1]\n"})).startswith("DATA_")
    assert list(scratch.iterdir()) == []
