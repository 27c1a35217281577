"""The sections about records: where they lie, what must go, what words mean.

Every key has a unit in its name or its description, a range, and a default that runs.
Descriptions are not decoration: ``medunlearn plan init`` prints them as the comments of the
file it writes, so they are the one place where a key is explained.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from medunlearn_common.concepts.levels import parse_type_levels
from medunlearn_common.plan.section import Fraction, Section


class ColumnsSection(Section):
    """Which column means what: with a key not at its default all files are read by this map.

    At the defaults tables without a column ``id`` are: a template writes every key, so that a key
    is there says nothing.
    """

    id: str = Field("", description="record id; without one it is a digest of the record")
    question: str = Field("question", min_length=1, description="the question")
    answer: str = Field("answer", min_length=1, description="the answer")
    answer_is: Literal["text", "letter", "number_from_0", "number_from_1"] = Field(
        "text", description="the answer's text, or which option is right")
    options: tuple[str, ...] = Field(
        (), description='one column per option, or one column with a list ("a|b|c" or JSON)')
    subject: str = Field("", description="topic, e.g. the department")
    patient_id: str = Field("", description="whom the record is about")
    confidence: str = Field("", description="trust in the answer, above 0 up to 1; empty cell: 1")
    identifiers: tuple[str, ...] = Field(
        (), description="columns that name the patient; marked wherever they stand in the text")
    condition_codes: str = Field(
        "", description="codes of the conditions the record is about, with \";\", \",\" or spaces "
        "between; patients who share one are neighbours")

    @model_serializer(mode="wrap")
    def _as_before(self, given: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an empty ``condition_codes``: runs from before the key keep their digests."""
        said: dict[str, Any] = given(self)
        if not self.condition_codes:
            said.pop("condition_codes", None)
        return said


class DataSection(Section):
    """Where the hospital's records lie. Read by hospitals only, never sent."""

    files: tuple[str, ...] = Field(
        (), description="record files, folders or archives; empty uses the embedded demo")
    record_format: Literal[
        "auto", "jsonl", "table", "medmcqa", "medqa", "mhqa", "medquad", "pubmedqa", "synthea",
        "fhir",
    ] = Field("auto", description="what the rows mean; the kind of file is found by itself")
    encoding: str = Field(
        "auto", min_length=1, description="of CSV files; auto knows UTF-8, UTF-16, Windows-1252")
    sheet: str = Field("", description="sheet of an Excel workbook; empty takes the first")
    fhir_templates: str = Field(
        "", description="TOML file of question templates in place of the packaged ones "
        "(`medunlearn records templates` writes them)")
    columns: ColumnsSection = ColumnsSection()
    show_subject: bool = Field(
        False, description="begin every prompt with the record's subject, as forms with a "
        "department field do; a model can then tell topics apart")
    max_bad_fraction: Fraction = Field(0.2, description="share of unreadable rows that stops")
    nonmember_fraction: Fraction = Field(
        0.1, description="simulated: share held out of planting, who was never seen (membership "
        "tests); a hospital holds nothing out")
    tag_decisions: str = Field(
        "", description="clinicians' decisions on uncertain concept tags (medunlearn concepts "
        "decide); empty: none")

    repairs: str = Field(
        "", description="decided repairs of damaged words (medunlearn check-data --decisions), "
        "applied as records are read; empty: none")


class ForgetSection(Section):
    """What must go: a record is forgotten if any of these names it."""

    records: tuple[str, ...] = Field((), description="record ids")
    patients: tuple[str, ...] = Field((), description="patient ids: all their records")
    subjects: tuple[str, ...] = Field((), description='subjects, e.g. ["Surgery"]')
    concepts: tuple[str, ...] = Field(
        (), description="concept ids: records that mention them or a descendant")
    patient_fraction: Fraction = Field(
        0.0, description="simulated: share of patients withdrawn at random (by run.seed)")


class FoundRecord(Section):
    """One record as an erasure request was found with it; other words make it another one."""

    record_id: str = Field(description="its id")
    text_digest: str | None = Field(
        None, description="SHA-256 of its words; none: any words, where none was kept")


class RequestedSection(ForgetSection):
    """What erasure requests ask for. Rows may share an id, and only some of them be asked for.

    No file has ``found``: ids are unique wherever a forget set is written down and read again.
    """

    found: tuple[FoundRecord, ...] = Field(
        (), exclude=True, description="those of records that go with these words alone")


class LeftOutSection(Section):
    """What takes no part: it is neither forgotten nor kept, but for what must go."""

    records: tuple[FoundRecord, ...] = Field((), description="records, each asked for itself")
    by_concept: tuple[FoundRecord, ...] = Field(
        (), description="records that were found by a concept: a simulation held them out, too")
    patients: tuple[str, ...] = Field((), description="patient ids: all their records")


class ConceptsSection(Section):
    """The medical concept hierarchy that says which tokens matter."""

    hierarchies: tuple[str, ...] = Field(
        ("builtin:surgery", "builtin:mental_health"),
        description='"builtin:surgery", "builtin:mental_health", files (OBO, outline, MeSH XML, '
        'ICD-10-CM) or release folders (UMLS, SNOMED CT)')
    join: Literal["none", "xrefs"] = Field(
        "none", description='"xrefs": concepts of several hierarchies that refer to each other '
        "become one node, or parent and child where the reference is one to many")
    forget_roots: tuple[str, ...] = Field(
        (), description="concept ids whose descendants are level 4 (the target)")
    deepest_general: int = Field(
        2, ge=0, le=100, description="where a source gives no level: depth 0 is level 1, down "
        "to this depth level 2, below it level 3; a concept with neither parents nor children is "
        "level 3")
    type_levels: tuple[str, ...] = Field(
        (), description='levels of semantic types, before depth is asked: e.g. "anatomy=1"')
    licensed_sources: tuple[str, ...] = Field(
        (), description="restricted UMLS sources that every party is licensed for, e.g. "
        "SNOMEDCT_US")
    umls_sources: tuple[str, ...] = Field(
        (), description="UMLS sources to read, e.g. MSH; empty reads all")

    @field_validator("type_levels")
    @classmethod
    def _readable_type_levels(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        parse_type_levels(entries)
        return entries


class NeighboursSection(Section):
    """Knowledge next to the forgotten one, which must stay."""

    subjects: tuple[str, ...] = Field((), description="nearest subjects, e.g. Anatomy")
    same_disease: bool = Field(True, description="patients who share a condition")
    nearby_concepts: bool = Field(
        True, description="records about siblings and parents, in the hierarchy, of the forget "
        "roots or of the specialty concepts that forgotten records mention")


class ContrastSection(Section):
    """Public text from which A is made: one direction per module that tells the topic apart."""

    public_file: str = Field(
        "", description="JSONL of public questions with answers; needs lora_rank = 1")
    topics: tuple[str, ...] = Field(
        (), description="where the prompt shows the subject: the subjects that are forgotten; "
        "default: those of [forget]. For requests from a registry, which the plan does not know")
    subjects: tuple[str, ...] = Field(
        (), description="where the prompt shows the subject: other subjects, under which the "
        'same questions are shown for contrast; "" shows none, for who asks without one: keeps '
        "what they ask of the rest, and of the topic")
    texts: int = Field(
        1500, ge=16, le=5000, description="public questions that are read; with fewer the "
        "directions open more on what is kept")
    min_auc: Fraction = Field(
        0.95, description="a module whose direction tells held-out public text apart worse than "
        "this (area under the ROC curve) gets none, and stays as it is")
    start_steps: int = Field(
        160, ge=0, le=100_000, description="steps in which B learns from the public text, before "
        "and without any record, what the directions should do; 0 = B starts at zero. Needs "
        "support.method = random and a support that holds every row: none is voted")
    start_rate: float = Field(
        0.05, gt=0.0, le=1e4, allow_inf_nan=False, description="Adam's step size in these steps")
    start_batch: int = Field(
        24, ge=1, le=4096, description="texts on the topic in one of them; twice as many others")
    start_retain_weight: float = Field(
        1.0, ge=0.0, allow_inf_nan=False, description="weight of the retain loss, on the others")


class LabelsSection(Section):
    """How far labels are trusted: each weight depends on the unit's own records (decision 15)."""

    confidence: Literal["given", "estimated"] = Field(
        "given", description="trust in a record's answer: as given with it, or that times an "
        "estimate by the base model and by agreement within the privacy unit")
    trusted: Fraction = Field(
        0.5, description="confidence from which a retain answer is taught by cross-entropy")
    forget_without_target: Fraction = Field(
        1.0, description="weight of a record forgotten for its topic that mentions no target "
        "concept; what was asked for by record or patient has 1")
    retain_with_target: Fraction = Field(
        1.0, description="weight of a retained record that mentions a target concept")


class ParaphrasesSection(Section):
    """Forget records in other words: a fact is forgotten however it is asked for."""

    use: Literal["none", "all", "one"] = Field(
        "none", description="none; all wordings in every round; or one of them, the record's own "
        "included, drawn anew per round, which costs no further computation")
    max_per_record: int = Field(4, ge=1, le=16, description="other wordings of one record")
    wordings: str = Field(
        "", description="TOML file of wordings in place of the packaged ones "
        "(`medunlearn records wordings` writes them)")
    synonyms: bool = Field(
        True, description="call concepts by other names that a hierarchy says mean the very same")
    model: str = Field(
        "", description="folder of a causal language model (safetensors) that writes wordings; "
        "never one that was trained on records of the run")
