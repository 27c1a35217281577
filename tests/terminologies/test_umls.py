"""UMLS RRF: names, links, licences and shifted columns on a generated release."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
import terminology_samples as samples

from medunlearn_common.concepts import (
    ConceptHierarchy,
    SourceOptions,
    detect_format,
    load_hierarchy,
)
from medunlearn_common.concepts.umls import load_umls
from medunlearn_common.errors import Misconfigured

LICENSED = SourceOptions(licensed_sources=("MSHGER",))
Tables = dict[str, str]


def load(
    tmp_path: Path, tables: Tables | None = None, options: SourceOptions = LICENSED
) -> ConceptHierarchy:
    folder = samples.write_tables(tmp_path / "META", tables or samples.umls_tables())
    return load_umls(folder, options)


def refusal(
    tmp_path: Path, tables: Tables | None = None, options: SourceOptions = LICENSED
) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, tables, options)
    return caught.value


def test_names_are_english_and_not_suppressed(tmp_path: Path) -> None:
    umls = load(tmp_path)
    assert umls["UMLS:C0012634"].terms == ("Disease", "Diseases")
    assert umls["UMLS:C0006826"].terms == ("Malignant Neoplasms", 'The "big C"', "cancer")
    assert umls["UMLS:C0242379"].name == "Malignant neoplasm of lung"
    assert "UMLS:C0000001" not in umls
    assert len(umls) == 4


def test_par_and_chd_say_what_the_second_concept_is_to_the_first(tmp_path: Path) -> None:
    umls = load(tmp_path)
    assert umls.parents("UMLS:C0006826") == ("UMLS:C0012634",)
    assert umls.parents("UMLS:C0242379") == ("UMLS:C0006826",)  # not part_of, not RB
    assert umls.parents("UMLS:C0007115") == ("UMLS:C0006826",)
    assert umls.roots() == ("UMLS:C0012634",)


def test_the_link_that_closes_a_cycle_is_left_out_and_told(tmp_path: Path) -> None:
    umls = load(tmp_path)
    assert umls.notes == (
        "parent links left out because they close a cycle (1): C0012634 -> C0242379",
    )
    tables = samples.umls_tables()
    rows = tables["MRREL.RRF"].splitlines(keepends=True)
    tables["MRREL.RRF"] = "".join(reversed(rows))
    assert load(tmp_path, tables).digest() == umls.digest()


def test_a_nameless_concept_between_others_is_told(tmp_path: Path) -> None:
    """Below a forget root above it nothing of its branch would be forgotten, without a word."""
    tables = samples.umls_tables()
    tables["MRREL.RRF"] += samples.rel("C0000001", "PAR", "C0006826", number=11)
    umls = load(tmp_path, tables)
    assert umls.notes[1:] == (
        "concepts without an English name that stand between others (1): C0000001; name what is "
        "below them as further forget roots",
    )
    assert umls.digest() == load(tmp_path / "before").digest()


def test_a_supplementary_concept_without_a_parent_is_no_common_language(tmp_path: Path) -> None:
    """MeSH's supplementary concepts have no PAR row, and are rare diseases and chemicals."""
    tables = samples.umls_tables()
    tables["MRCONSO.RRF"] += samples.conso(
        "C4053555", "Costello-Marfan hernia syndrome", number=60, tty="NM", code="C536999"
    )
    leveled = load(tmp_path, tables).with_forget_roots([])
    assert int(leveled.level_of("UMLS:C4053555")) == 3
    assert int(leveled.level_of("UMLS:C0012634")) == 1  # the true root
    assert "(1): UMLS:C4053555" in leveled.notes[-1]


def test_a_cycle_is_broken_where_the_fewest_sources_agree(tmp_path: Path) -> None:
    tables = samples.umls_tables()
    for number, source in enumerate(("NCI", "MSH"), start=20):
        tables["MRREL.RRF"] += samples.rel(
            "C0012634", "PAR", "C0242379", number=number, source=source
        )
    umls = load(tmp_path, tables)
    assert umls.parents("UMLS:C0012634") == ("UMLS:C0242379",)
    assert len(umls.notes) == 1


def test_semantic_types_and_cross_references(tmp_path: Path) -> None:
    umls = load(tmp_path)
    assert umls["UMLS:C0012634"].semantic_type == "disease"
    assert umls["UMLS:C0242379"].semantic_type == "anatomy"  # of several the smallest: T023
    assert umls["UMLS:C0007115"].semantic_type is None
    assert umls["UMLS:C0012634"].xrefs == ("MESH:D004194",)
    assert umls["UMLS:C0242379"].xrefs == ("ICD10CM:C34", "MESH:D008175")


def test_restricted_sources_are_refused_by_name(tmp_path: Path) -> None:
    refused = refusal(tmp_path, options=SourceOptions())
    assert refused.code == "CONCEPT_SOURCE_RESTRICTED"
    assert "MSHGER (level 3)" in refused.message
    assert "licensed_sources" in refused.hint


def test_a_source_of_which_only_an_old_version_is_restricted_is_free(tmp_path: Path) -> None:
    assert "MSH" not in refusal(tmp_path, options=SourceOptions()).message.replace("MSHGER", "")


def test_a_row_s_own_restriction_counts(tmp_path: Path) -> None:
    tables = samples.umls_tables()
    tables["MRCONSO.RRF"] += samples.conso("C0007115", "x", number=99, source="NCI", level="2")
    assert "NCI (level 2)" in refusal(tmp_path, tables).message


def test_a_restricted_source_of_links_only_is_refused(tmp_path: Path) -> None:
    tables = samples.umls_tables()
    tables["MRSAB.RRF"] += samples.sab("SNOMEDCT_US", level="9")
    tables["MRREL.RRF"] += samples.rel("C0007115", "PAR", "C0006826", source="SNOMEDCT_US")
    assert "SNOMEDCT_US (level 9)" in refusal(tmp_path, tables).message


def test_naming_the_sources_leaves_the_others_out(tmp_path: Path) -> None:
    umls = load(tmp_path, options=SourceOptions(umls_sources=("MSH",)))
    assert {c.concept_id for c in umls.concepts()} == {"UMLS:C0012634", "UMLS:C0242379"}
    assert refusal(tmp_path, options=SourceOptions(umls_sources=("MSH", "MSHGER"))).code == (
        "CONCEPT_SOURCE_RESTRICTED"
    )
    assert refusal(tmp_path, options=SourceOptions(umls_sources=("MESH",))).code == (
        "CONCEPT_SOURCE_UNKNOWN"
    )


def shift(table: str, change: Callable[[list[str]], list[str]]) -> Tables:
    """The release with the columns of the second row of one table changed."""
    tables = samples.umls_tables()
    rows = tables[table].splitlines()
    rows[1] = "|".join(change(rows[1].split("|")))
    tables[table] = "\n".join(rows) + "\n"
    return tables


@pytest.mark.parametrize("table", ["MRCONSO.RRF", "MRREL.RRF", "MRSTY.RRF", "MRSAB.RRF"])
@pytest.mark.parametrize(
    "change",
    [
        lambda values: ["", *values],
        lambda values: values[1:],
        lambda values: values[:-1],
        lambda values: [*values[-1:], *values[:-1]],
        lambda values: [*values[1:], values[0]],
        lambda values: [values[0], "x|y", *values[2:]],
    ],
    ids=["one more", "first missing", "cut", "to the right", "to the left", "pipe in a value"],
)
def test_a_shifted_column_is_named_with_its_line(
    table: str, change: Callable[[list[str]], list[str]], tmp_path: Path
) -> None:
    refused = refusal(tmp_path, shift(table, change))
    assert refused.code == "CONCEPT_FILE_INVALID"
    assert f"{table}, line 2" in refused.message


@pytest.mark.parametrize(
    ("table", "row", "named"),
    [
        ("MRREL.RRF", samples.rel("C0006826", "PAR", "C7777777"), "not in MRCONSO"),
        ("MRREL.RRF", samples.rel("C0006826", "PAR", "C0012634", source="XX"), "not in MRSAB"),
        ("MRCONSO.RRF", samples.conso("C0006826", "x", number=1, source="XX"), "not in MRSAB"),
        ("MRCONSO.RRF", samples.conso("C0006826", " ", number=1), "column STR"),
        ("MRCONSO.RRF", samples.conso("C0006826", "x\x00", number=1), "NUL"),
        ("MRCONSO.RRF", "x" * (2**20 + 1), "longer than"),
    ],
)
def test_damaged_rows(table: str, row: str, named: str, tmp_path: Path) -> None:
    tables = samples.umls_tables()
    tables[table] += row
    refused = refusal(tmp_path, tables)
    assert refused.code == "CONCEPT_FILE_INVALID"
    assert named in refused.message
    assert "line" in refused.message


@pytest.mark.parametrize("missing", sorted(samples.umls_tables()))
def test_a_missing_table(missing: str, tmp_path: Path) -> None:
    tables = samples.umls_tables()
    del tables[missing]
    assert refusal(tmp_path, tables).code == "CONCEPT_FILE_MISSING"


def test_two_releases_in_one_folder(tmp_path: Path) -> None:
    samples.write_tables(tmp_path / "META" / "2025AB", samples.umls_tables())
    assert refusal(tmp_path).code == "CONCEPT_RELEASE_AMBIGUOUS"


def test_zipped_tables_line_ends_and_long_names(tmp_path: Path) -> None:
    digest = load(tmp_path).digest()
    tables = samples.umls_tables()
    tables["MRCONSO.RRF"] += samples.conso("C0006826", "x" * 1001, number=50, source="NCI")
    folder = tmp_path / "zipped"
    folder.mkdir()
    for name, text in tables.items():
        content = ("\ufeff" + text.replace("\n", "\r\n")).encode("utf-8")
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    assert detect_format(folder) == "umls"
    assert load_hierarchy(str(folder), options=LICENSED).digest() == digest


def test_characters_that_only_python_takes_for_line_ends(tmp_path: Path) -> None:
    tables = samples.umls_tables()
    tables["MRCONSO.RRF"] += samples.conso("C0006826", "odd\x85name\u2028here", number=60)
    assert "odd name here" in load(tmp_path, tables)["UMLS:C0006826"].synonyms


def test_cut_gzip(tmp_path: Path) -> None:
    folder = samples.write_tables(tmp_path / "META", samples.umls_tables())
    zipped = gzip.compress((folder / "MRREL.RRF").read_bytes())
    (folder / "MRREL.RRF").unlink()
    (folder / "MRREL.RRF.gz").write_bytes(zipped[:-10])
    with pytest.raises(Misconfigured) as caught:
        load_umls(folder, LICENSED)
    assert caught.value.code == "CONCEPT_FILE_TRUNCATED"


def test_no_english_name_at_all(tmp_path: Path) -> None:
    tables = samples.umls_tables()
    tables["MRCONSO.RRF"] = samples.conso("C0000001", "x", number=1, language="GER")
    assert refusal(tmp_path, tables).code == "CONCEPT_FILE_EMPTY"
