"""A published run as one string of bytes: fixed names, no compression, one spelling.

On the wire: length of the head (4 bytes, big-endian), head (deterministic CBOR: format, and of
each file name, length and SHA-256, sorted by name), then the files' bytes one after another.
tar and zip were not taken: both carry names that lead out of a folder, links, modes, and sizes
that unfold on reading.

Guarantees:
    * A file's name is one of a list, so that no archive can name a place of its own choosing.
    * Nothing is larger unpacked than it was on the wire, and nothing is read before the whole
      was within :data:`MAX_ARCHIVE_BYTES`.
    * Equal files give equal bytes; leftover bytes are an error.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

from medunlearn_common.attestation.files import (
    ADAPTER_FILES,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS,
    ATTESTATION_FILE,
    LOG_FILE,
    MAX_FILE_BYTES,
    RESULT_FILE,
    ROSTER_FILE,
    RUN_PLAN_FILE,
)
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.strict_cbor import decode_map, encode, require_keys

FORMAT: Final = "medunlearn-publication/1"
# Below the largest content of an envelope (512 MiB), with room for the head of the message.
MAX_ARCHIVE_BYTES: Final = 448 << 20
MAX_HEAD_BYTES: Final = 4 << 20
STATEMENTS_FOLDER: Final = "statements"
UPDATE_FILES: Final = (ATTESTATION_FILE, LOG_FILE, ROSTER_FILE)
FULL_FILES: Final = (
    *UPDATE_FILES, RUN_PLAN_FILE, RESULT_FILE, f"{ADAPTER_FOLDER}/{ATTESTATION_FILE}",
    *(f"{ADAPTER_FOLDER}/{name}" for name in ADAPTER_FILES),
)
_WEIGHTS = f"{ADAPTER_FOLDER}/{ADAPTER_WEIGHTS}"
_STATEMENT = re.compile(rf"{STATEMENTS_FOLDER}/[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}\.dsse")
_LENGTH_BYTES = 4
_HINT = "report it to the coordinator; nothing of it was written"


def statement_file(site: str) -> str:
    """Where a site's decision lies in a published run."""
    return f"{STATEMENTS_FOLDER}/{site}.dsse"


def pack(files: Mapping[str, bytes]) -> bytes:
    """One archive of a full set of files, or of an update, with any statements.

    Raises:
        Misconfigured: PUBLICATION_TOO_LARGE.
        ValueError: For a name that is not on the list.
    """
    for name in files:
        if not _is_known(name):
            raise ValueError("a file that no publication has")
    head = encode({"format": FORMAT, "files": [
        {"name": name, "length": len(files[name]),
         "sha256": hashlib.sha256(files[name]).digest()} for name in sorted(files)
    ]})
    data = b"".join((
        len(head).to_bytes(_LENGTH_BYTES, "big"), head, *(files[name] for name in sorted(files))
    ))
    if len(data) > MAX_ARCHIVE_BYTES:
        raise Misconfigured(
            "PUBLICATION_TOO_LARGE",
            f"adapter and evidence have {len(data) >> 20} MiB, at most "
            f"{MAX_ARCHIVE_BYTES >> 20} MiB can be sent",
            "lower [model] lora_rank or target_modules in the next plan; this run's published "
            "folder can be carried to the hospitals by hand",
        )
    return data


def unpack(data: bytes) -> dict[str, bytes]:
    """Back from :func:`pack`; a full set or an update, nothing else.

    Raises:
        Rejected: ARCHIVE_SIZE, ARCHIVE_FORM, ARCHIVE_NAME for a name that is not on the list or
            not in order, ARCHIVE_FILES if files are missing or too many, ARCHIVE_DIGEST, or a
            CBOR_ code.
    """
    if len(data) > MAX_ARCHIVE_BYTES:
        raise Rejected("ARCHIVE_SIZE", f"an archive of {len(data)} bytes", _HINT)
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
    if len(data) < _LENGTH_BYTES or end > min(len(data), _LENGTH_BYTES + MAX_HEAD_BYTES):
        raise _form("its head is cut off or too long")
    head = decode_map(
        data[_LENGTH_BYTES:end], keys=frozenset(("format", "files")), max_bytes=MAX_HEAD_BYTES
    )
    if head["format"] != FORMAT or not isinstance(head["files"], list):
        raise _form("it is of another version")
    entries = [_entry(entry) for entry in head["files"]]
    names = [name for name, _, _ in entries]
    if names != sorted(set(names)) or not all(map(_is_known, names)):
        raise Rejected("ARCHIVE_NAME", "an archive names a file that no publication has", _HINT)
    plain = {name for name in names if not _STATEMENT.fullmatch(name)}
    if plain not in (set(FULL_FILES), set(UPDATE_FILES)):
        raise Rejected("ARCHIVE_FILES", "an archive lacks files, or has too many", _HINT)
    if end + sum(length for _, length, _ in entries) != len(data):
        raise _form("its files are cut off, or bytes are left over")
    files: dict[str, bytes] = {}
    for name, length, digest in entries:
        files[name] = data[end : end + length]
        end += length
        if hashlib.sha256(files[name]).digest() != digest:
            raise Rejected("ARCHIVE_DIGEST", f"{name} is not what the archive says", _HINT)
    return files


def _entry(value: Any) -> tuple[str, int, bytes]:
    found = require_keys(value, keys=frozenset(("name", "length", "sha256")), what="a file")
    name, length, digest = found["name"], found["length"], found["sha256"]
    if not isinstance(name, str) or not isinstance(digest, bytes):
        raise _form("a file's name or digest is none")
    if not isinstance(length, int) or isinstance(length, bool) or length < 0:
        raise _form("a file's length is none")
    if length > (MAX_ARCHIVE_BYTES if name == _WEIGHTS else MAX_FILE_BYTES):
        raise Rejected("ARCHIVE_SIZE", "a file of an archive is too large", _HINT)
    return name, length, digest


def _is_known(name: str) -> bool:
    return name in FULL_FILES or _STATEMENT.fullmatch(name) is not None


def _form(why: str) -> Rejected:
    return Rejected("ARCHIVE_FORM", f"an archive cannot be read: {why}", _HINT)
