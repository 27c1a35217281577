"""What kind of thing a concept is: one small vocabulary for all terminologies.

The built-in outlines, MeSH, ICD-10-CM, UMLS and SNOMED CT each classify their concepts in their
own words. Here these become the few kinds that a plan's ``type_levels`` can name.
"""

from __future__ import annotations

from typing import Final

KINDS: Final = (
    "anatomy", "concept", "device", "disease", "drug", "finding", "molecule", "organism",
    "physiology", "procedure",
)  # fmt: skip

MESH_CATEGORIES: Final[dict[str, str]] = {
    "A": "Anatomy",
    "B": "Organisms",
    "C": "Diseases",
    "D": "Chemicals and Drugs",
    "E": "Analytical, Diagnostic and Therapeutic Techniques, and Equipment",
    "F": "Psychiatry and Psychology",
    "G": "Phenomena and Processes",
    "H": "Disciplines and Occupations",
    "I": "Anthropology, Education, Sociology, and Social Phenomena",
    "J": "Technology, Industry, and Agriculture",
    "K": "Humanities",
    "L": "Information Science",
    "M": "Named Groups",
    "N": "Health Care",
    "V": "Publication Characteristics",
    "Z": "Geographicals",
}
"""The sixteen trees of MeSH; no file lists them, tree numbers begin with their letters."""

_MESH_KINDS: Final[dict[str, str]] = {
    "A": "anatomy", "B": "organism", "C": "disease", "C23.888": "finding", "D": "molecule",
    "D26": "drug", "D27": "drug", "E": "procedure", "E07": "device", "F03": "disease",
    "F04": "procedure", "G": "physiology",
}  # fmt: skip

_UMLS_KINDS: Final[dict[str, str]] = {
    tui: kind
    for kind, tuis in {
        "anatomy": "T017 T018 T021 T022 T023 T024 T025 T026 T029 T030 T031",
        "device": "T074 T075 T203",
        "disease": "T019 T020 T037 T046 T047 T048 T049 T050 T190 T191",
        "drug": "T121 T195 T200",
        "finding": "T033 T034 T184",
        "molecule": "T028 T085 T086 T087 T088 T103 T104 T109 T114 T116 T120 T122 T123 T125 T126"
        " T127 T129 T130 T131 T192 T196 T197",
        "organism": "T001 T002 T004 T005 T007 T008 T010 T011 T012 T013 T014 T015 T016 T194 T204",
        "physiology": "T032 T038 T039 T040 T041 T042 T043 T044 T045 T067 T070 T201",
        "procedure": "T058 T059 T060 T061 T062 T063 T065",
    }.items()
    for tui in tuis.split()
}

_SNOMED_KINDS: Final[dict[str, str]] = {
    "body structure": "anatomy", "cell": "anatomy", "cell structure": "anatomy",
    "clinical drug": "drug", "disorder": "disease", "finding": "finding",
    "medicinal product": "drug", "medicinal product form": "drug",
    "morphologic abnormality": "finding", "observable entity": "physiology",
    "organism": "organism", "physical object": "device", "procedure": "procedure",
    "product": "drug", "regime/therapy": "procedure", "substance": "molecule",
}  # fmt: skip

_ICD10CM_CHAPTER_KINDS: Final[dict[int, str]] = {18: "finding", 20: "concept", 21: "concept"}


def mesh_kind(tree_number: str) -> str:
    """Kind of what stands at a MeSH tree number: that of its longest known beginning."""
    known = [start for start in _MESH_KINDS if tree_number.startswith(start)]
    return _MESH_KINDS[max(known, key=len)] if known else "concept"


def umls_kind(tui: str) -> str:
    """Kind of a UMLS semantic type, by its identifier such as ``T047``."""
    return _UMLS_KINDS.get(tui, "concept")


def snomed_kind(tag: str) -> str:
    """Kind of a SNOMED CT semantic tag, such as ``disorder``."""
    return _SNOMED_KINDS.get(tag, "concept")


def icd10cm_kind(chapter: int) -> str:
    """Kind of what an ICD-10-CM chapter holds."""
    return _ICD10CM_CHAPTER_KINDS.get(chapter, "disease")
