"""The sections of a plan, one class per TOML table.

Every key has a unit in its name or its description, a range, and a default that runs.
Descriptions are not decoration: ``medunlearn plan init`` prints them as the comments of the
file it writes, so this module is the one place where a key is explained.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from medunlearn_common.concepts.levels import parse_type_levels
from medunlearn_common.digests import digest_of
from medunlearn_common.plan.public_files import BUILTIN, by_digest, model_by_digest

LEVELS = 4

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
LevelWeights = tuple[
    Annotated[float, Field(ge=0.0)],
    Annotated[float, Field(ge=0.0)],
    Annotated[float, Field(ge=0.0)],
    Annotated[float, Field(ge=0.0)],
]


class Section(BaseModel):
    """A frozen table that refuses keys it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="after")
    @classmethod
    def _no_nul(cls, value: Any) -> Any:
        # No file system and no hub has a name with NUL, and each library fails at it differently.
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and "\x00" in text for text in texts):
            raise ValueError("holds a NUL character")
        return value


class RunSection(Section):
    """What the run is called and how long it may go on."""

    name: str = Field("demo", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                      description="name of the run, used in file names and reports")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of everything that is public")
    rounds: int = Field(20, ge=1, le=10_000, description="update rounds, one exchange each")


class ModelSection(Section):
    """The shared model and its adapter."""

    source: str = Field("embedded", min_length=1,
                        description='"embedded" plants a tiny model; else a folder or hub id')
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="weights in memory")
    compute_dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="matrix products; bfloat16 is several times faster where the "
        "processor has it")
    lora_rank: int = Field(256, ge=1, le=256, description="rank of the adapter; A is frozen, "
                           "so it is also how finely one row of B tells inputs apart")
    lora_alpha: Positive = Field(256.0, description="the adapter adds alpha / rank * B A")
    target_modules: tuple[str, ...] = Field(
        ("o_proj",), min_length=1,
        description="linear modules that carry an adapter; what attention writes carries the "
        "topic, what the MLPs write hardly does")
    max_tokens: int = Field(128, ge=8, le=8192,
                            description="longest record; longer prompts lose their middle")


class ColumnsSection(Section):
    """Which column of a table means what; any key set here reads all files by this map."""

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
        0.1, description="share held out of planting: who was never seen (membership tests)")
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
        0.0, description="share of patients withdrawn at random (by run.seed)")


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
        "to this depth level 2, below it level 3")
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


class ObjectiveSection(Section):
    """The loss of a forget record and of a retain record (method.md, Strategy 1)."""

    name: Literal[
        "abstraction", "redirection", "npo", "simnpo", "max_entropy",
        "ga", "graddiff", "plain_npo", "plain_simnpo", "rmu", "retain_only", "noise_only",
    ] = Field(
        "abstraction", description="forget objective: abstraction for single facts and "
        "patients, redirection for a topic that the prompt shows; from ga on baselines, the "
        "last two are controls")
    forget_weights: LevelWeights = Field(
        (0.25, 0.5, 1.0, 1.0), description="a(level): forget weight of answer tokens, levels 1-4")
    keep_weights: LevelWeights = Field(
        (0.0, 0.0, 0.0, 0.0), description="b(level): KL to the reference on a forget record")
    retain_weights: LevelWeights = Field(
        (1.0, 1.0, 1.0, 1.0), description="c(level): KL to the reference on a retain record")
    prompt_weight: Fraction = Field(
        0.0, description="weight of prompt tokens against answer tokens (1 = equal)")
    beta: Positive = Field(1.0, description="inverse temperature of npo, simnpo, abstraction")
    margin: float = Field(0.0, allow_inf_nan=False, description="margin, in nats")
    retain_cross_entropy: float = Field(
        0.0, ge=0.0, description="weight of cross-entropy on trusted retain labels")
    redirection_shift: Positive = Field(
        10.0, description="how far redirection moves the logits, in standard deviations")
    rmu_scale: Positive = Field(6.0, description="norm factor of RMU's random direction")


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


class GeometrySection(Section):
    """The Fisher-metric projection (method.md, Strategy 2)."""

    projection: Literal["none", "history", "public"] = Field(
        "none", description="retain subspace: earlier aggregated retain sums, or public text")
    rank: int = Field(8, ge=1, le=32, description="q, directions kept free of forgetting")
    damping: Positive = Field(0.1, description="lambda in M = F_r + lambda I, of mean F_r")
    public_file: str = Field("", description="JSONL of public text for projection = public")

    @model_validator(mode="after")
    def _public_needs_file(self) -> Self:
        if self.projection == "public" and not self.public_file:
            raise ValueError('projection = "public" needs public_file')
        return self


class SupportSection(Section):
    """The shared sparse support (protocol.md, step 2)."""

    method: Literal["vote", "random", "public"] = Field(
        "vote", description="private vote on rows of B, seeded random-k, or public saliency")
    density: Rate = Field(
        0.001, description="k as a share of all model parameters; the noise's norm grows with "
        "its square root")
    vote_share: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.1, description="share of the privacy budget (of 1/sigma^2) that the vote spends")
    vote_damping: Positive = Field(0.3, description="damping of the forget/retain ratio")
    public_file: str = Field("", description="JSONL of public text for method = public")

    @model_validator(mode="after")
    def _public_needs_file(self) -> Self:
        if self.method == "public" and not self.public_file:
            raise ValueError('method = "public" needs public_file')
        return self


class PrivacySection(Section):
    """The guarantee: (epsilon, delta) per unit, adding or removing one."""

    noise: Literal["distributed", "local", "none"] = Field(
        "distributed", description="who adds noise: shares of one sum, each site, nobody")
    unit: Literal["record", "patient"] = Field("record", description="what one unit is")
    epsilon: Annotated[float, Field(gt=0.0, le=100.0)] = Field(
        4.0, description="budget of the whole run, vote included; at most 100")
    delta: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(1e-5, description="delta")
    clip_l2: Positive = Field(
        0.02, description="C, bound on one unit's gradient norm; small, so that a retain "
        "record that begins to drift pushes back as hard as a forget record pulls")
    vote_clip_l2: Positive = Field(1.0, description="bound on one unit's vote norm")
    forget_rate: Rate = Field(1.0, description="Poisson rate of forget units per round")
    retain_rate: Rate = Field(1.0, description="Poisson rate of retain units per round")
    local_steps: int = Field(1, ge=1, le=64, description="steps per round; 1 if distributed")
    evaluation_share: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.02, description="share of the privacy budget (of 1/sigma^2) for counting, at the end, "
        "what sites' own records are still answered; 0 = no counts and so no utility gate")
    evaluation_rate: Rate = Field(1.0, description="Poisson rate of the units counted; less is "
                                  "faster and coarser")

    @model_validator(mode="after")
    def _one_step_under_distributed_noise(self) -> Self:
        if self.noise == "distributed" and self.local_steps != 1:
            raise ValueError(
                'noise = "distributed" allows only local_steps = 1: local states between '
                "steps would carry a share of the noise that protects nobody")
        return self


class ServerSection(Section):
    """The server step: post-processing of released sums, so it costs no privacy."""

    optimizer: Literal["adam", "momentum", "sgd"] = Field("adam", description="on S")
    learning_rate: Positive = Field(1.0, description="step size of the adapter's B")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="of the learning rate over the rounds")
    warmup_rounds: int = Field(0, ge=0, description="rounds of linear warm-up")
    beta1: Fraction = Field(0.9, description="momentum")
    beta2: Fraction = Field(0.99, description="second moment of adam")
    retain_weight: float = Field(
        1.25, ge=0.0, description="weight of the retain sum against the forget sum")
    averaging: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="share of the last rounds whose adapters are averaged")
    trust_radius: float = Field(
        0.0, ge=0.0, description="bound on a step's norm in the retain metric; 0 = none")
    row_rank: int = Field(
        2, ge=0, le=256, description="truncate each module's rows to this rank after a step: "
        "less noise where forgetting is one gate; 0 = never")
    stop_gap: float = Field(
        0.0, ge=0.0, description="stop when the released forget gap falls below; 0 = never")


class FederationSection(Section):
    """Who takes part."""

    sites: int = Field(5, ge=1, le=1000, description="hospitals")
    min_sites: int = Field(5, ge=1, description="h, survivors without whom a round aborts")
    absences: tuple[str, ...] = Field(
        (), description='simulated: "site:first-last" rounds without that site, e.g. "4:0-3"')
    concentration: Positive = Field(
        1.0, description="Dirichlet parameter: small means very uneven sites")
    round_deadline_s: Positive = Field(600.0, description="wait for a round's answers")

    @model_validator(mode="after")
    def _survivors_within_sites(self) -> Self:
        if self.min_sites > self.sites:
            raise ValueError(f"min_sites = {self.min_sites} exceeds sites = {self.sites}")
        return self


class GatesSection(Section):
    """What must hold before an adapter is published; a failed gate publishes nothing."""

    max_units: int = Field(
        10_000, ge=1, le=10**9, description="most forget, or retain, units that all sites hold "
        "together, rather above than below: no honest sum is longer than so many clips and "
        "the noise")
    min_preservation: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        0.8, description="kept answers after / before, on the sites' own retain records; "
        "0 = no utility gate")
    confidence: Annotated[float, Field(ge=0.5, lt=1.0)] = Field(
        0.95, description="the preservation that is this sure, noise considered, must reach it")
    max_canary_loss: float = Field(
        0.2, ge=0.0, allow_inf_nan=False, description="most nats per token that the model may "
        "lose on public text outside the topic (0.2: perplexity grows by a fifth); not judged "
        "where the base model never knew such text; 0 = no canary gate")


class EvaluationSection(Section):
    """What is measured after the run, on each hospital's own data."""

    curve_every: int = Field(5, ge=1, description="rounds between points of the curves")
    curve_records: int = Field(200, ge=1, description="records per set and point")
    retain_records: int = Field(
        1000, ge=1, description="kept records asked at the end, a sample if there are more")
    relearning_steps: int = Field(10, ge=0, description="steps of the relearning attack")
    relearning_rate: Rate = Field(1e-3, description="its learning rate")
    samples: int = Field(100, ge=0, description="sampled completions per identifier prompt")
    retrained: bool = Field(True, description="train the gold model without the forget set")


class RunPlan(Section):
    """What all parties agree on: nothing here names a record, a patient or a file."""

    schema_version: Literal[1] = 1
    run: RunSection = RunSection()
    model: ModelSection = ModelSection()
    concepts: ConceptsSection = ConceptsSection()
    objective: ObjectiveSection = ObjectiveSection()
    labels: LabelsSection = LabelsSection()
    paraphrases: ParaphrasesSection = ParaphrasesSection()
    geometry: GeometrySection = GeometrySection()
    support: SupportSection = SupportSection()
    privacy: PrivacySection = PrivacySection()
    server: ServerSection = ServerSection()
    federation: FederationSection = FederationSection()
    gates: GatesSection = GatesSection()

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> Self:
        if self.privacy.noise == "distributed" and self.federation.min_sites < 2:
            raise ValueError(
                'noise = "distributed" needs federation.min_sites of at least 2: '
                "one site alone would carry all the noise, which is noise = \"local\"")
        vote_share = self.support.vote_share if self.support.method == "vote" else 0.0
        if vote_share + self.privacy.evaluation_share >= 1.0:
            raise ValueError(
                "support.vote_share and privacy.evaluation_share leave nothing for the rounds")
        if self.server.warmup_rounds >= self.run.rounds:
            raise ValueError("server.warmup_rounds must be below run.rounds")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every value that two parties must agree on."""
        return digest_of(self.model_dump(mode="json"))


class Plan(RunPlan):
    """A plan file: the shared :class:`RunPlan` and what only simulation or a site reads."""

    data: DataSection = DataSection()
    forget: ForgetSection = ForgetSection()
    neighbours: NeighboursSection = NeighboursSection()
    evaluation: EvaluationSection = EvaluationSection()

    def shared(self) -> RunPlan:
        """The part that may leave a hospital; public files are named by digest.

        Raises:
            Misconfigured: PUBLIC_FILE_MISSING.
        """
        parts = {name: getattr(self, name) for name in RunPlan.model_fields}
        for name in ("support", "geometry"):
            file = by_digest(parts[name].public_file)
            parts[name] = parts[name].model_copy(update={"public_file": file})
        own = self.paraphrases
        parts["paraphrases"] = own.model_copy(update={
            "wordings": by_digest(own.wordings), "model": model_by_digest(own.model),
        })
        hierarchies = tuple(by_digest(source) for source in self.concepts.hierarchies)
        parts["concepts"] = self.concepts.model_copy(update={"hierarchies": hierarchies})
        return RunPlan.model_validate(parts)

    def public_files(self) -> tuple[str, ...]:
        """Paths of the plan's public text, hierarchies, wordings and wording model."""
        named = (
            self.support.public_file, self.geometry.public_file, *self.concepts.hierarchies,
            self.paraphrases.wordings, self.paraphrases.model,
        )
        return tuple(name for name in named if name and not name.startswith(BUILTIN))
