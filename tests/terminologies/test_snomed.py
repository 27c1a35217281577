"""SNOMED CT RF2 Snapshots: retired rows, names, is-a, and files that are not the ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import terminology_samples as samples

from medunlearn_common.concepts import ConceptHierarchy, detect_format, load_hierarchy
from medunlearn_common.concepts.snomed import load_snomed
from medunlearn_common.errors import Misconfigured

CONCEPTS, DESCRIPTIONS, RELATIONSHIPS, *_ = samples.snomed_tables()
ROOT, CLINICAL, INFARCT, HERNIA, RETIRED = (
    f"SNOMEDCT:{samples.snomed_id(n)}" for n in (138875, 404684, 222, 333, 444)
)


def load(tmp_path: Path, tables: dict[str, str] | None = None) -> ConceptHierarchy:
    folder = tmp_path / "Snapshot" / "Terminology"
    samples.write_tables(folder, tables or samples.snomed_tables())
    return load_snomed(tmp_path)


def refusal(tmp_path: Path, tables: dict[str, str]) -> Misconfigured:
    with pytest.raises(Misconfigured) as caught:
        load(tmp_path, tables)
    return caught.value


def changed(table: str, old: str, new: str) -> dict[str, str]:
    tables = samples.snomed_tables()
    assert old in tables[table]
    tables[table] = tables[table].replace(old, new, 1)
    return tables


def test_active_concepts_with_names_types_and_parents(tmp_path: Path) -> None:
    snomed = load(tmp_path)
    assert [c.concept_id for c in snomed.concepts()] == sorted([ROOT, CLINICAL, INFARCT, HERNIA])
    infarct = snomed[INFARCT]
    assert infarct.terms == ("Myocardial infarction", "Heart attack")
    assert (infarct.semantic_type, infarct.parents) == ("disease", (CLINICAL,))
    assert snomed[HERNIA].name == 'Hernia "sensu stricto"'
    assert snomed[HERNIA].parents == (CLINICAL,)  # other relations make no parents
    assert snomed[ROOT].name == "SNOMED CT Concept"
    assert RETIRED not in snomed
    assert snomed.roots() == (ROOT,)


def test_a_release_folder_is_recognised(tmp_path: Path) -> None:
    digest = load(tmp_path).digest()
    assert detect_format(tmp_path) == "snomed"
    assert load_hierarchy(str(tmp_path)).digest() == digest


def british(part: str) -> dict[str, str]:
    """The tables under the names that the United Kingdom gives them."""
    return {
        name.replace("Snapshot", f"{part}Snapshot").replace("INT", "GB"): text
        for name, text in samples.snomed_tables().items()
    }


def test_the_british_edition_is_read_as_one_or_refused_in_parts(tmp_path: Path) -> None:
    digest = load(tmp_path / "international").digest()
    samples.write_tables(tmp_path / "mono", british("MONO"))
    assert load_hierarchy(str(tmp_path / "mono")).digest() == digest
    samples.write_tables(tmp_path / "both" / "parts", british("UKCL"))
    with pytest.raises(Misconfigured) as caught:  # one alone would be a branch lost unseen
        load(tmp_path / "both")
    assert caught.value.code == "CONCEPT_RELEASE_AMBIGUOUS"


@pytest.mark.parametrize("table", [CONCEPTS, DESCRIPTIONS, RELATIONSHIPS])
@pytest.mark.parametrize("how", ["one more", "one less", "rotated"])
def test_a_shifted_column(table: str, how: str, tmp_path: Path) -> None:
    tables = samples.snomed_tables()
    rows = tables[table].split("\r\n")
    values = rows[2].split("\t")
    shifted = {"one more": ["", *values], "one less": values[1:],
               "rotated": [*values[1:], values[0]]}[how]  # fmt: skip
    rows[2] = "\t".join(shifted)
    tables[table] = "\r\n".join(rows)
    refused = refusal(tmp_path, tables)
    assert refused.code == "CONCEPT_FILE_INVALID"
    assert f"{table}, line 3" in refused.message


@pytest.mark.parametrize("table", [CONCEPTS, DESCRIPTIONS, RELATIONSHIPS])
def test_a_file_cut_inside_its_last_row(table: str, tmp_path: Path) -> None:
    tables = samples.snomed_tables()
    tables[table] = tables[table][:-5]
    assert refusal(tmp_path, tables).code == "CONCEPT_FILE_INVALID"


@pytest.mark.parametrize(
    ("table", "old", "new", "code"),
    [
        (CONCEPTS, "effectiveTime", "time", "CONCEPT_FILE_INVALID"),
        (RELATIONSHIPS, f"{ROOT[9:]}\t0\t", "9999009\t0\t", "CONCEPT_PARENT_UNKNOWN"),
        (RELATIONSHIPS, f"{CLINICAL[9:]}\t{ROOT[9:]}", f"{RETIRED[9:]}\t{ROOT[9:]}",
         "CONCEPT_FILE_INVALID"),
        (RELATIONSHIPS, f"{CLINICAL[9:]}\t{ROOT[9:]}", f"{CLINICAL[9:]}\t{INFARCT[9:]}",
         "CONCEPT_CYCLE"),
        (CONCEPTS, f"{RETIRED[9:]}\t", f"{HERNIA[9:]}\t", "CONCEPT_DUPLICATE_ID"),
        (DESCRIPTIONS, f"{samples.FSN}\tClinical", f"{samples.SYNONYM}\tClinical",
         "CONCEPT_FILE_INVALID"),
        (DESCRIPTIONS, f"{samples.SYNONYM}\tHeart", f"{samples.FSN}\tHeart",
         "CONCEPT_FILE_INVALID"),
    ],
    ids=["header", "dangling", "retired child", "cycle", "twice", "no FSN", "two FSN"],
)  # fmt: skip
def test_damaged_releases(table: str, old: str, new: str, code: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, changed(table, old, new)).code == code


def test_full_files_and_two_releases_are_not_taken_for_one_snapshot(tmp_path: Path) -> None:
    tables = {name.replace("Snapshot", "Full"): t for name, t in samples.snomed_tables().items()}
    samples.write_tables(tmp_path / "Full", tables)
    with pytest.raises(Misconfigured) as caught:
        load_hierarchy(str(tmp_path))
    assert caught.value.code == "CONCEPT_FORMAT_UNKNOWN"
    samples.write_tables(tmp_path / "old", samples.snomed_tables())
    assert refusal(tmp_path, samples.snomed_tables()).code == "CONCEPT_RELEASE_AMBIGUOUS"


def test_descriptions_in_another_language_are_not_names(tmp_path: Path) -> None:
    english = f"\ten\t{samples.SYNONYM}\tHeart"
    tables = changed(DESCRIPTIONS, english, english.replace("\ten\t", "\tes\t"))
    assert load(tmp_path, tables)[INFARCT].terms == ("Myocardial infarction",)
