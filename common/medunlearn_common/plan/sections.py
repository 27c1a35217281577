"""A whole plan: the sections, one class per TOML table, and what must hold between them."""

from __future__ import annotations

from functools import cached_property
from typing import Literal, Self

from pydantic import model_validator

from medunlearn_common.digests import digest_of
from medunlearn_common.plan.method_sections import (
    GeometrySection,
    ModelSection,
    ObjectiveSection,
    PrivacySection,
    ServerSection,
    SupportSection,
)
from medunlearn_common.plan.public_files import BUILTIN, by_digest, model_by_digest
from medunlearn_common.plan.records_sections import (
    ColumnsSection,
    ConceptsSection,
    ContrastSection,
    DataSection,
    ForgetSection,
    FoundRecord,
    LabelsSection,
    LeftOutSection,
    NeighboursSection,
    ParaphrasesSection,
    RequestedSection,
)
from medunlearn_common.plan.run_sections import (
    EvaluationSection,
    FederationSection,
    GatesSection,
    RunSection,
    WireSection,
)
from medunlearn_common.plan.section import LEVELS, LevelWeights, Section

__all__ = [
    "LEVELS", "ColumnsSection", "ConceptsSection", "ContrastSection", "DataSection",
    "EvaluationSection", "FederationSection", "ForgetSection", "FoundRecord", "GatesSection",
    "GeometrySection", "LabelsSection", "LeftOutSection", "LevelWeights", "ModelSection",
    "NeighboursSection", "ObjectiveSection", "ParaphrasesSection", "Plan", "PrivacySection",
    "RequestedSection", "RunPlan", "RunSection", "Section", "ServerSection", "SupportSection",
    "WireSection",
]


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
    wire: WireSection = WireSection()
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
        self._refuse_too_small_messages()
        return self

    def _refuse_too_small_messages(self) -> None:
        if self.wire.sums == "one":
            for wrong, instead in (
                (self.geometry.projection != "none", 'geometry.projection = "none"'),
                (self.privacy.local_steps != 1, "privacy.local_steps = 1"),
                # Beyond, the set with the smaller share would be rounded away record by record.
                (not 0.01 <= self.server.retain_weight <= 100.0,
                 "server.retain_weight between 0.01 and 100"),
            ):
                if wrong:
                    raise ValueError(f'wire.sums = "one" needs {instead}; or set wire.sums = "two"')
        if self.wire.update_bits == 16 and self.privacy.noise != "distributed":
            raise ValueError(
                'wire.update_bits = 16 needs privacy.noise = "distributed": its noise is what says '
                "how coarse an update may be; or set wire.update_bits = 32")
        # n sites add up to sqrt(n / h) of the noise that 16 bits hold 16 standard deviations of.
        if self.wire.update_bits == 16 and self.federation.sites > 4 * self.federation.min_sites:
            raise ValueError(
                "wire.update_bits = 16 needs federation.min_sites of at least a quarter of "
                "federation.sites: each site adds 1 / sqrt(min_sites) of the noise, and what so "
                "many add would not fit; or set wire.update_bits = 32")

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
    contrast: ContrastSection = ContrastSection()

    @model_validator(mode="after")
    def _refuse_contrast_of_many(self) -> Self:
        if self.contrast.public_file and self.model.lora_rank != 1:
            raise ValueError("contrast.public_file needs model.lora_rank = 1: one direction")
        starts = self.contrast.public_file and self.contrast.start_steps
        if starts and self.support.method != "random":
            raise ValueError(
                'contrast.start_steps needs support.method = "random": a start has every row, and '
                "a vote would drop some; or set contrast.start_steps = 0")
        return self

    def shared(self) -> RunPlan:
        """The part that may leave a hospital; public files are named by digest.

        Raises:
            Misconfigured: PUBLIC_FILE_MISSING.
        """
        parts = {name: getattr(self, name) for name in RunPlan.model_fields}
        for name in ("support", "geometry"):
            file = by_digest(parts[name].public_file)
            parts[name] = parts[name].model_copy(update={"public_file": file})
        parts["model"] = self.model.model_copy(update={"a_file": by_digest(self.model.a_file)})
        own = self.paraphrases
        parts["paraphrases"] = own.model_copy(update={
            "wordings": by_digest(own.wordings), "model": model_by_digest(own.model),
        })
        hierarchies = tuple(by_digest(source) for source in self.concepts.hierarchies)
        parts["concepts"] = self.concepts.model_copy(update={"hierarchies": hierarchies})
        return RunPlan.model_validate(parts)

    def public_files(self) -> tuple[str, ...]:
        """Paths of the plan's public text, frozen A, hierarchies, wordings and their model."""
        named = (
            self.support.public_file, self.geometry.public_file, self.model.a_file,
            *self.concepts.hierarchies, self.paraphrases.wordings, self.paraphrases.model,
        )
        return tuple(name for name in named if name and not name.startswith(BUILTIN))
