"""Loaders and parsers as people count them: a target each, or several that reach the same code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

LOADERS: dict[str, tuple[str, ...]] = {
    "JSON lines": ("jsonl",),
    "compressed files": ("gz", "xz", "bz2"),
    "archives": ("zip", "tar"),
    "CSV": ("csv", "csv-own"),
    "Excel": ("xlsx", "xlsx-sheet", "xlsx-in-zip"),
    "Parquet": ("parquet", "parquet-in-tar"),
    "saved data sets": ("dataset", "dataset-state"),
    "FHIR": ("fhir-bundle", "fhir-bulk", "fhir-templates"),
    "MedQA": ("medqa",),
    "MHQA": ("mhqa",),
    "MedQuAD": ("medquad",),
    "PubMedQA": ("pubmedqa",),
    "MedMCQA": ("medmcqa",),
    "Synthea": ("synthea",),
    "OBO": ("obo",),
    "outlines": ("outline",),
    "MeSH": ("mesh-xml", "mesh-jsonl"),
    "ICD-10-CM": ("icd10cm-order", "icd10cm-xml", "icd10cm-jsonl"),
    "UMLS": ("umls/MRCONSO", "umls/MRREL", "umls/MRSAB", "umls/MRSTY"),
    "SNOMED CT": ("snomed/Concept", "snomed/Description", "snomed/Relationship"),
}
PARSERS: dict[str, tuple[str, ...]] = {
    "CBOR": ("cbor",),
    "envelope": ("envelope", "header", "dsse"),
    "plan": ("plan", "plan, respelled"),
    "policy": ("policy",),
    "roster": ("roster", "signed roster", "root", "entry"),
    "attestation": ("attestation", "attestation, signed", "statement", "statement, respelled"),
    "update": ("update", "update, 16 bits"),
    "request": ("step", "step, 16 bits", "support", "offer", "offer, signed", "message",
                "message, with head"),
    "layout": ("layout", "layout, respelled"),
    "masking": ("masking agreement", "masking delivery", "masking keys", "masking members",
                "masking opening", "masking sealed", "masking session", "masking shares",
                "masking survivors"),
    "log": ("log checkpoint", "log export", "log record", "log record, respelled"),
    "evidence": ("evidence", "evidence, respelled"),
    "checkpoint": ("checkpoint", "checkpoint, inside"),
    "bundle": ("bundle", "bundle, inside"),
    "publishing": ("archive", "decision", "decision, signed"),
    "joining": ("invitation", "invitation, inside", "invitation, signed", "enrolment",
                "enrolment, inside", "enrolment, signed", "leave", "leave, signed"),
}
GROUPS = LOADERS | PARSERS


def lacking(names: Iterable[str], had: Mapping[str, float], *, up_to: float) -> dict[str, float]:
    """Seconds that each target gets so that all together come to ``up_to``; the least had first."""
    rows = sorted((had.get(name, 0.0), name) for name in names)
    left, level = up_to - sum(seconds for seconds, _ in rows), 0.0
    for count, (seconds, _) in enumerate(rows, start=1):
        higher = rows[count][0] if count < len(rows) else float("inf")
        level = seconds + max(0.0, left) / count
        if level <= higher:
            break
        left -= count * (higher - seconds)
    return {name: max(0.0, level - seconds) for seconds, name in rows}
