"""Any bytes end in a hierarchy or in Misconfigured, whichever loader meets them.

``MEDUNLEARN_FUZZ_EXAMPLES`` sets the number of damaged inputs per format (default 150); with
100000 a format takes about an hour.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import terminology_samples as samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medunlearn_common.concepts import LOADERS, ConceptHierarchy, SourceOptions, load_hierarchy
from medunlearn_common.errors import Misconfigured

EXAMPLES = int(os.environ.get("MEDUNLEARN_FUZZ_EXAMPLES", "150"))
OPTIONS = SourceOptions(licensed_sources=("MSHGER",))
FUZZED = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow]
)

FILES: dict[str, str] = {
    "obo": "format-version: 1.2\n\n[Term]\nid: T:1\nname: a\nxref: MESH:D1 {x}\n\n[Term]\n"
    'id: T:2\nname: b\nsynonym: "c" EXACT []\nis_a: T:1\n',
    "outline": "!outline 1\nA a | b {type=disease; level=2}\n  B c\n",
    "mesh-xml": samples.mesh_xml(),
    "mesh-jsonl": "".join(
        json.dumps({"id": i, "name": "Hernia, Hiatal", "tree_numbers": t, "parents": p}) + "\n"
        for i, t, p in (("D000001", ["C04"], []), ("D000002", ["C04.100"], ["D000001"]))
    ),
    "icd10cm-order": samples.icd10cm_order(),
    "icd10cm-xml": samples.ICD10CM_XML,
    "icd10cm-jsonl": "".join(
        json.dumps({"code": c, "name": "x (A00-A09)", "parent": p, "synonyms": ["y"]}) + "\n"
        for c, p in (("CH01", None), ("SEC:A00-A09", "CH01"), ("A00", "SEC:A00-A09"))
    ),
}
FOLDERS: dict[str, dict[str, str]] = {
    "umls": samples.umls_tables(), "snomed": samples.snomed_tables(),
}  # fmt: skip

INSERTED = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([
        b"\x00", b"\xff", b"\xef\xbb\xbf", b"|", b"\t", b"\n", b"\r", b"<", b"&a;", b"<!--", b"]]>",
        b"{", b"[", b'"', b"\\ud800", b"\x1f\x8b", b"\xc2\x85", b"\xe2\x80\xa8", b"9" * 5000,
        b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"[" * 3000, b"NaN", b"-0", b"C04",
    ]),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """The content with up to four cuts, insertions, repeats or moves."""
    content = original
    for _ in range(draw(st.integers(0, 4))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        piece = content[start:end]
        content = draw(st.sampled_from([
            content[:start] + content[start + draw(st.integers(0, 3)):],
            content[:start] + draw(INSERTED) + content[start:],
            content[:start] + content[end:],
            content[:end] + piece + content[end:],
            content[end:] + content[:end],
            content[:start],
        ]))  # fmt: skip
    if draw(st.integers(0, 9)) == 0:
        content = gzip.compress(content)
        content = content[: draw(st.integers(0, len(content)))]
    return content


def check(load: Callable[[], ConceptHierarchy]) -> None:
    """A hierarchy with a digest and names that can be written, or a clear error."""
    try:
        hierarchy = load()
    except Misconfigured as error:
        assert error.code.startswith("CONCEPT_")
        assert len(error.message) < 3000
        return
    assert len(hierarchy.digest()) == 64
    for concept in hierarchy.concepts():
        "".join(concept.terms).encode("utf-8")
        assert hierarchy.depth(concept.concept_id) >= 0


def test_every_format_is_fuzzed() -> None:
    assert FILES.keys() | FOLDERS.keys() == LOADERS.keys()


@pytest.mark.parametrize("format_name", sorted(FILES))
def test_damaged_files(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"

    @FUZZED
    @given(st.data())
    def run(data: st.DataObject) -> None:
        path.write_bytes(data.draw(damaged(FILES[format_name].encode("utf-8"))))
        check(lambda: LOADERS[format_name](path, OPTIONS))

    run()


@pytest.mark.parametrize("format_name", sorted(FOLDERS))
def test_damaged_releases(format_name: str) -> None:
    tables = FOLDERS[format_name]

    @FUZZED
    @given(st.sampled_from(sorted(tables)), st.data())
    def run(name: str, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            samples.write_tables(Path(folder), tables)
            (Path(folder) / name).write_bytes(data.draw(damaged(tables[name].encode("utf-8"))))
            check(lambda: LOADERS[format_name](Path(folder), OPTIONS))

    run()


@FUZZED
@given(st.one_of(st.binary(max_size=300), damaged(FILES["icd10cm-jsonl"].encode())))
def test_any_bytes_are_told_apart_or_refused(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        check(lambda: load_hierarchy(file.name))


@pytest.mark.parametrize("format_name", sorted(FILES))
def test_undamaged_samples_are_read(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(FILES[format_name].encode("utf-8"))
    assert len(load_hierarchy(str(path))) >= 2


@pytest.mark.parametrize("format_name", sorted(FILES))
def test_bombs_and_endless_lines_stop_early(format_name: str, tmp_path: Path) -> None:
    """A gzip bomb after a good beginning ends at the format's limit, here lowered to 3 MB."""
    from medunlearn_common.concepts import sources

    loaders = {
        name: getattr(sources, f"load_{name.replace('-', '_')}") for name in sorted(FILES)
    }
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(FILES[format_name].encode() + b" " * 50_000_000))
    with pytest.raises(Misconfigured) as caught:
        loaders[format_name](path, max_bytes=3_000_000)
    # The line or record limit may come before the file's.
    assert caught.value.code in ("CONCEPT_FILE_TOO_LARGE", "CONCEPT_FILE_INVALID")
