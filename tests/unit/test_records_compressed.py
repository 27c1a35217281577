"""Compressed files and archives that are cut or damaged in their middle: never a part for all."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medunlearn_client.records import compressed, read_records
from medunlearn_client.records.compressed import DamagedStream, Decompressed
from medunlearn_common.errors import MedunlearnError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress,
}
LINES = [json.dumps({"id": f"r{n}", "question": "Who?", "answer": "me"}).encode() + b"\n"
         for n in range(3)]
BLOCK = tarfile.BLOCKSIZE


def ids_or_code(path: Path, content: bytes) -> list[str] | str:
    path.write_bytes(content)
    try:
        return [record.record_id for record in read_records(path)]
    except MedunlearnError as error:
        return error.code


@pytest.mark.parametrize("kind", PACKERS)
def test_every_stream_of_a_file_is_read_or_none(tmp_path: Path, kind: str) -> None:
    """Parallel compressors write many; in the middle of a file damage must not be its end."""
    path, streams = tmp_path / f"a.{kind}", [PACKERS[kind](line) for line in LINES]
    whole = b"".join(streams)
    everybody = ["r0", "r1", "r2"]
    assert ids_or_code(path, whole) == everybody
    assert ids_or_code(path, whole + bytes(8)) == everybody
    first = len(streams[0])
    for place in (first, first + 1, first + len(streams[1]) // 2, len(whole) - 6):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        assert ids_or_code(path, bytes(damaged)) == "DATA_GZIP_DAMAGED", place
    assert ids_or_code(path, whole[:-5]) == "DATA_GZIP_DAMAGED"
    assert ids_or_code(path, whole + b"more") == "DATA_GZIP_DAMAGED"


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_streams_of_any_length_come_out_as_they_went_in(kind: str) -> None:
    new = {"bz2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}[kind]
    chance = random.Random(1)
    content = [chance.randbytes(chance.randrange(9)) * chance.choice([0, 1, 30_000])
               for _ in range(40)]
    packed = bytes(5).join(PACKERS[kind](piece) for piece in content)
    whole = b"".join(content)
    for size in (1000, 1 << 20):
        with io.BufferedReader(Decompressed(io.BytesIO(packed), new), size) as buffered:
            assert buffered.read() == whole
    with Decompressed(io.BytesIO(packed), new) as stream:
        assert b"".join(stream.read(1) for _ in range(2000)) == whole[:2000]
    with pytest.raises(DamagedStream), Decompressed(io.BytesIO(b""), new) as stream:
        stream.read()


def tar(end: bytes = bytes(2 * BLOCK)) -> bytearray:
    """Three members of two blocks each: a header and a line."""
    archive = bytearray()
    for number, line in enumerate(LINES):
        info = tarfile.TarInfo(f"{number}.jsonl")
        info.size = len(line)
        archive += info.tobuf() + line.ljust(BLOCK, b"\x00")
    return archive + end


def flipped(archive: bytearray, place: int) -> bytearray:
    archive[place] ^= 1
    return archive


def zeroed(archive: bytearray, start: int) -> bytearray:
    archive[start : start + BLOCK] = bytes(BLOCK)
    return archive


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    "archive",
    [
        flipped(tar(), 2 * BLOCK + 5), flipped(tar(), 2 * BLOCK + 150), zeroed(tar(), 2 * BLOCK),
        tar()[: 2 * BLOCK], tar()[: 2 * BLOCK + 300], tar()[: 4 * BLOCK], tar(b""), tar() + tar(),
    ],
    ids=["name", "checksum", "header gone", "cut before a header", "cut in a header",
         "cut after a member", "no end", "two archives"],
)
def test_a_tar_archive_is_read_to_its_end_or_not_at_all(
    tmp_path: Path, archive: bytearray, pack: Callable[[bytes], bytes]
) -> None:
    assert ids_or_code(tmp_path / "a.tar", pack(bytes(archive))) == "DATA_ARCHIVE_DAMAGED"


@pytest.mark.parametrize("end", [bytes(BLOCK), bytes(2 * BLOCK), bytes(20 * BLOCK)])
def test_ends_of_archives_that_programs_write(tmp_path: Path, end: bytes) -> None:
    assert ids_or_code(tmp_path / "a.tar", bytes(tar(end))) == ["r0", "r1", "r2"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_attributes_without_end_are_not_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    monkeypatch.setattr(compressed, "MAX_TAR_HEADER_BYTES", 1000)
    info = tarfile.TarInfo("long")
    info.type = kind
    for size, expected in ((990, ["r0", "r1", "r2"]), (1010, "DATA_ARCHIVE_DAMAGED")):
        info.size = size
        text = (b"%d comment=" % size).ljust(size - 1, b"a") + b"\n"
        if kind == tarfile.GNUTYPE_LONGNAME:
            text = b"0.jsonl".ljust(size, b"\x00")
        archive = info.tobuf() + text.ljust(2 * BLOCK, b"\x00") + tar()
        assert ids_or_code(tmp_path / "a.tar", bytes(archive)) == expected
