"""OBO files: the real Disease Ontology, small hand-written ones and broken ones."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_client.tagging import ConceptTagger
from medunlearn_common.concepts import load_obo
from medunlearn_common.errors import Misconfigured

HEADER = "format-version: 1.2\n\n"
SMALL = (
    HEADER
    + """[Term]
id: T:1
name: disease

[Term]
id: T:2
name: lung cancer
alt_id: T:20
alt_id: T:21
def: "A cancer \\"of\\" the lung." [url:http\\://example.org]
synonym: "cancer of lung" EXACT []
synonym: "lung tumor, malignant" NARROW []
synonym: "tumor" BROAD []
synonym: "lung cancer" EXACT []
xref: MESH:D1 "text"
is_a: T:1 {source="x"} ! disease
relationship: part_of T:1

[Term]
id: T:3
name: old thing
is_obsolete: true
replaced_by: T:2

[Term]
id: T:4
name: small cell lung cancer
is_a: T:20

[Term]
id: T:5
name: gone
is_obsolete: true

[Typedef]
id: part_of
name: part of
"""
)


def write(folder: Path, text: str | bytes, name: str = "test.obo") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def error_of(path: Path, **options: int) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        load_obo(path, **options)
    assert str(path.name) in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("zipped", [False, True])
def test_terms_synonyms_and_secondary_ids(tmp_path: Path, zipped: bool) -> None:
    raw = SMALL.encode()
    path = write(tmp_path, gzip.compress(raw), "s.obo.gz") if zipped else write(tmp_path, raw)
    hierarchy = load_obo(path)
    assert [c.concept_id for c in hierarchy.concepts()] == ["T:1", "T:2", "T:4"]
    assert hierarchy["T:2"].name == "lung cancer"
    assert hierarchy["T:2"].synonyms == ("cancer of lung", "lung tumor, malignant")
    assert hierarchy.aliases() == {"T:20": "T:2", "T:21": "T:2", "T:3": "T:2"}
    assert hierarchy.parents("T:4") == ("T:2",)
    assert "T:5" not in hierarchy


def test_escapes_qualifiers_comments_and_old_synonym_tags(tmp_path: Path) -> None:
    text = HEADER + (
        '[Term]\nid:T:1 {note="x"} ! comment\nname: a\\, b \\{c\\} {x="y"} ! more\n'
        '! a whole line of comment\nexact_synonym: "say \\"x\\"" []\nbroad_synonym: "wide" []\n'
        'synonym: "no scope" [PMID:1 "see [1]", X:2]\nsynonym: "typed" RELATED abbr [] {q="r"}\n'
    )
    (concept,) = load_obo(write(tmp_path, text)).concepts()
    assert concept.concept_id == "T:1"
    assert concept.name == "a, b {c}"
    assert concept.synonyms == ('say "x"', "no scope", "typed")


@pytest.mark.parametrize(
    "hostile",
    [
        "name: " + "a{b=" * 100_000,
        "name: " + " \\" * 100_000 + "\\",
        'synonym: "' + "a" * 300_000,
        'synonym: "a"' + " " * 300_000,
        'synonym: "a" [' + '"b' * 100_001,
        "is_a: " + "{" * 300_000,
    ],
)
def test_hostile_lines_are_refused_quickly(tmp_path: Path, hostile: str) -> None:
    path = write(tmp_path, HEADER + "[Term]\nid: T:1\n" + hostile)
    started = time.process_time()
    error = error_of(path)
    assert (error.code, time.process_time() - started < 1) == ("CONCEPT_FILE_INVALID", True)
    assert len(error.message) < 500


def test_what_is_quoted_of_a_file_is_short(tmp_path: Path) -> None:
    """Found by fuzzing: an identifier as long as a line was told in full."""
    error = error_of(write(tmp_path, HEADER + "[Term]\nid: " + "9" * 5000 + "\n"))
    assert error.code == "CONCEPT_FILE_INVALID"
    assert len(error.message) < 2100 and error.message.endswith("has 0 names, not one")


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load_obo(path).digest() == load_obo(write(tmp_path, SMALL, "plain.obo")).digest()


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        ("", "CONCEPT_FILE_EMPTY", ""),
        (" \n\n", "CONCEPT_FILE_EMPTY", ""),
        (HEADER, "CONCEPT_FILE_EMPTY", "no concept"),
        ("<html><body>Not found</body></html>", "CONCEPT_FILE_INVALID", "line 1"),
        (b"\x00\xff\xfe\x00garbage", "CONCEPT_FILE_INVALID", "not UTF-8"),
        (SMALL[: SMALL.index("of lung") + 3], "CONCEPT_FILE_INVALID", "line 13"),
        (HEADER + "[Term]\nname: nameless\n", "CONCEPT_FILE_INVALID", "line 4"),
        (HEADER + "[Term]\nid: T:1\n", "CONCEPT_FILE_INVALID", "T:1 has 0 names"),
        (HEADER + "[Term]\nid: T:1\nname: a\nname: b\n", "CONCEPT_FILE_INVALID", "2 names"),
        (HEADER + "[Term]\nid: T:1\nnme: a\n", "CONCEPT_FILE_INVALID", "line 5"),
        (HEADER + "[Term]\nid: T:1\nname:\n", "CONCEPT_FILE_INVALID", "line 5"),
        (HEADER + "[Term]\nid: T:1\nis_a: T:2 T:3\n", "CONCEPT_FILE_INVALID", "line 5"),
        (HEADER + "[Term]\nid: T:1\nis_obsolete: yes\n", "CONCEPT_FILE_INVALID", "line 5"),
        (HEADER + "[Term]\nid: T:1\nid: T:2\n", "CONCEPT_FILE_INVALID", "line 5"),
        (SMALL + "\n[Term]\n", "CONCEPT_FILE_INVALID", "ends inside a term"),
        (HEADER + "[Term]\n" + SMALL[len(HEADER) :], "CONCEPT_FILE_INVALID", "line 4"),
        (SMALL + "\n[Term]\nid: T:1\nname: again\n", "CONCEPT_DUPLICATE_ID", "T:1"),
        (SMALL + "\n[Term]\nid: T:9\nname: x\nis_a: T:8\n", "CONCEPT_PARENT_UNKNOWN", "T:9 -> T:8"),
        (SMALL + "\n[Term]\nid: T:9\nname: x\nis_a: T:5\n", "CONCEPT_PARENT_UNKNOWN", "T:9 -> T:5"),
        (
            SMALL.replace("name: disease", "name: disease\nis_a: T:4"),
            "CONCEPT_CYCLE",
            "T:1 -> T:4 -> T:2 -> T:1",
        ),
    ],
)
def test_broken_content_gives_one_clear_error(
    tmp_path: Path, content: str | bytes, code: str, named: str
) -> None:
    error = error_of(write(tmp_path, content))
    assert error.code == code
    assert named in error.message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert error_of(tmp_path / "absent.obo").code == "CONCEPT_FILE_MISSING"
    (tmp_path / "folder.obo").mkdir()
    assert error_of(tmp_path / "folder.obo").code == "CONCEPT_FILE_UNREADABLE"


def test_broken_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(SMALL.encode())
    truncated = error_of(write(tmp_path, packed[: len(packed) // 2], "a.obo.gz"))
    assert truncated.code == "CONCEPT_FILE_TRUNCATED"
    flipped = packed[:30] + bytes([packed[30] ^ 0xFF]) + packed[31:]
    assert error_of(write(tmp_path, flipped, "b.obo.gz")).code == "CONCEPT_FILE_INVALID"
    assert error_of(write(tmp_path, SMALL, "c.obo.gz")).code == "CONCEPT_FILE_INVALID"


def test_size_limit_holds_for_the_unpacked_text(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(b" " * 1_000_000), "bomb.obo.gz")
    assert path.stat().st_size < 10_000
    assert error_of(path, max_bytes=10_000).code == "CONCEPT_FILE_TOO_LARGE"


@settings(max_examples=150)
@given(
    position=st.integers(0, len(SMALL)),
    removed=st.integers(0, 40),
    inserted=st.text(st.characters(max_codepoint=0x2FF), max_size=6),
)
def test_damaged_files_load_or_give_a_known_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, removed: int, inserted: str
) -> None:
    damaged = SMALL[:position] + inserted + SMALL[position + removed :]
    path = write(tmp_path_factory.getbasetemp(), damaged)
    try:
        assert len(load_obo(path)) > 0
    except Misconfigured as error:
        assert error.code.startswith("CONCEPT_")


@pytest.mark.real_data
def test_the_disease_ontology(shared_data: Path) -> None:
    started = time.process_time()
    hierarchy = load_obo(shared_data / "doid_reduced.obo.gz")
    tagger = ConceptTagger(hierarchy.with_forget_roots(["DOID:162"]))
    hierarchy.digest()
    seconds = time.process_time() - started
    assert len(hierarchy) == 12_247
    assert hierarchy.roots() == ("DOID:4",)
    assert hierarchy["DOID:162"].name == "cancer"
    assert "DOID:162" in hierarchy.ancestors("DOID:0001816")
    assert "DOID:0001816" in tagger.hierarchy.targets
    assert sum(len(c.synonyms) for c in hierarchy.concepts()) > 14_000
    assert seconds < 4, f"loading and building took {seconds:.1f} s"
    spans = tagger.tag("Hemangiosarcomas differ from pterygium.")
    assert [(s.concept_id, int(s.level)) for s in spans] == [
        ("DOID:0001816", 4),
        ("DOID:0002116", 3),
    ]


@pytest.mark.real_data
def test_a_real_file_cut_short_is_refused(shared_data: Path, tmp_path: Path) -> None:
    whole = gzip.decompress((shared_data / "doid_reduced.obo.gz").read_bytes())
    error = error_of(write(tmp_path, whole[: len(whole) // 2]))
    assert error.code in {"CONCEPT_FILE_INVALID", "CONCEPT_PARENT_UNKNOWN"}
