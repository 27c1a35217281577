"""Which format a hierarchy file or folder is in, told by its content.

The ending decides only where the content does not: an ``.obo`` file whose beginning is damaged
is still read as OBO, and refused with the line of the damage.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from medunlearn_common.concepts import icd10cm, mesh, outline, snomed, umls
from medunlearn_common.concepts.files import open_concept_file
from medunlearn_common.concepts.json_rows import parse_object
from medunlearn_common.concepts.tables import files_matching
from medunlearn_common.errors import Misconfigured

HEAD_BYTES: Final = 2**16

_ROOT_ELEMENT: Final = re.compile(r"<(?![?!])\s*([^\s/>]+)")
_OBO: Final = re.compile(r"^(?:format-version:|\[Term\]\s*$)", re.MULTILINE)
_XML_FORMATS: Final = {mesh.MESH_ROOT: "mesh-xml", icd10cm.ICD10CM_ROOT: "icd10cm-xml"}
_ENDINGS: Final = {".obo": "obo", ".outline": "outline"}


def detect_format(path: Path) -> str | None:
    """Name of the format, a key of `sources.LOADERS`; None if it is none of them.

    Raises:
        Misconfigured: A ``CONCEPT_FILE_…`` code where the file cannot be read.
    """
    if path.is_dir():
        return _folder_format(path)
    with open_concept_file(path, max_bytes=HEAD_BYTES) as stream:
        head = stream.read(HEAD_BYTES).decode("utf-8-sig", "replace")
    return _text_format(head) or _ENDINGS.get(_format_suffix(path))


def source_files(path: Path) -> list[Path]:
    """The files that make up a source: the file itself, or those of a folder that are read.

    Raises:
        Misconfigured: ``CONCEPT_FORMAT_UNKNOWN`` for a folder that is no release.
    """
    if not path.is_dir():
        return [path]
    found = {"umls": umls.umls_files, "snomed": snomed.snomed_files}
    kind = _folder_format(path)
    if kind is None:
        raise unknown_format(path)
    return found[kind](path)


def unknown_format(path: Path) -> Misconfigured:
    """The error for what no loader reads."""
    return Misconfigured(
        "CONCEPT_FORMAT_UNKNOWN",
        f"{path}: in no known format of hierarchies",
        "use builtin, builtin:NAME, a file of OBO, an outline, MeSH or ICD-10-CM (each may be "
        "gzipped), or the folder of a UMLS or SNOMED CT release",
    )


def _folder_format(folder: Path) -> str | None:
    if files_matching(folder, umls.MRCONSO):
        return "umls"
    return "snomed" if files_matching(folder, snomed.CONCEPT_FILE) else None


def _text_format(head: str) -> str | None:
    start = head.lstrip()
    if head.startswith(outline.HEADER):
        return "outline"
    if start.startswith("<"):
        root = _ROOT_ELEMENT.search(start)
        return _XML_FORMATS.get(root[1]) if root else None
    if start.startswith("{"):
        return _json_format(start.partition("\n")[0])
    if icd10cm.ORDER_LINE.fullmatch(start.partition("\n")[0].removesuffix("\r")):
        return "icd10cm-order"
    return "obo" if _OBO.search(head) else None


def _json_format(line: str) -> str | None:
    try:
        row = parse_object(line)
    except ValueError:
        return None
    if "tree_numbers" in row:
        return "mesh-jsonl"
    return "icd10cm-jsonl" if {"code", "parent"} <= row.keys() else None


def _format_suffix(path: Path) -> str:
    """Ending that names the format: ``.obo`` for both ``x.obo`` and ``x.obo.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""
