"""The schema of `result.json`, version 1: every key with its unit and meaning.

Shares are fractions between 0 and 1. A value that was not measured is null, never NaN. The
file holds figures only: no text of a record, no record id, no patient id.
`docs/result_schema.md` is generated from this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

RESULT_SCHEMA_VERSION = 1

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Ratio = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0.0)]


class Section(BaseModel):
    """One JSON object; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=False)


class RunSection(Section):
    """What was run."""

    name: str = Field(description="name of the run")
    task: str = Field(description="what was forgotten, in a few words, e.g. `Surgery`")
    runner: str = Field(description="`flower` or `memory`")
    objective: str = Field(description="unlearning objective")
    projection: str = Field(description="gradient projection")
    support: str = Field(description="how the shared coordinates were chosen")
    n_sites: Count = Field(description="hospitals")
    rounds: Count = Field(description="rounds done")
    rounds_planned: Count = Field(description="rounds the plan asked for")
    stopped_because: str = Field(description="why the run ended")


class ModelSection(Section):
    """The shared model."""

    name: str = Field(description="`embedded`, a hub id or a folder's last name")
    parameters: Count = Field(description="parameters of the base model")
    adapter_parameters: Count = Field(description="trainable numbers of the dense adapter")
    changed_parameters: Count = Field(description="coordinates the run may change (k)")
    changed_fraction: Share = Field(description="changed ÷ parameters")
    dtype: str = Field(description="weights in memory")


class ThreeWaySection(Section):
    """A group of records answered by three models."""

    n: Count = Field(description="records")
    chance: Share | None = Field(description="what guessing among the options reaches")
    accuracy_before: Share | None = Field(description="option ranking, original model")
    accuracy_after: Share | None = Field(description="option ranking, unlearned model")
    accuracy_retrained: Share | None = Field(description="option ranking, retrained model")
    exact_before: Share | None = Field(description="greedy exact answer, original model")
    exact_after: Share | None = Field(description="greedy exact answer, unlearned model")
    exact_retrained: Share | None = Field(description="greedy exact answer, retrained model")
    n_ranked: Count | None = Field(
        default=None, description="records with options; chance and accuracies are about these"
    )
    answered_before: Share | None = Field(
        default=None,
        description="by its options, or exactly where a record has none; original model",
    )
    answered_after: Share | None = Field(default=None, description="the same, unlearned model")
    answered_retrained: Share | None = Field(default=None, description="the same, retrained model")

    def answered(self) -> tuple[float | None, float | None, float | None]:
        """Before, after and retrained; of results without it, the kind of answer that there is."""
        if self.answered_before is not None:
            return self.answered_before, self.answered_after, self.answered_retrained
        if self.accuracy_before is not None:
            return self.accuracy_before, self.accuracy_after, self.accuracy_retrained
        return self.exact_before, self.exact_after, self.exact_retrained


class GroupedSection(ThreeWaySection):
    """The same with its parts."""

    by_site: Mapping[str, ThreeWaySection] = Field(description="by site number")
    by_subject: Mapping[str, ThreeWaySection] = Field(description="by subject")
    by_level: Mapping[str, ThreeWaySection] = Field(description="by concept level, 1 to 4")


class ForgetSection(GroupedSection):
    """The forget set."""

    gap: Share | None = Field(description="|accuracy after - retrained|: the target is 0")
    exact_gap: Share | None = Field(description="the same for exact answers")
    forgetting_rate: Share | None = Field(description="1 - accuracy after (arXiv 2511.19498)")
    relative_forgetting: float | None = Field(description="1 - after ÷ before")
    paraphrased: ThreeWaySection | None = Field(
        default=None, description="the same facts in the other wordings that the run used"
    )
    unnamed: ThreeWaySection | None = Field(
        default=None,
        description="a sample, asked without the subject that the prompts show; null where none is",
    )


class KeepSection(GroupedSection):
    """The retain set, or the neighbours of what was forgotten."""

    preservation: Ratio | None = Field(
        description="answered after ÷ before (in results without these, by ranking alone where a "
        "record has options)"
    )
    exact_preservation: Ratio | None = Field(description="exact answers after ÷ before")
    unnamed: ThreeWaySection | None = Field(
        default=None,
        description="a sample, asked without the subject that the prompts show; null where none is",
    )


class LevelSection(Section):
    """Preservation at one concept level."""

    level: Annotated[int, Field(ge=1, le=4)] = Field(description="1 fundamental to 4 target")
    questions: Count = Field(description="retain questions whose deepest concept has this level")
    accuracy_before: Share | None = Field(
        description="share answered, by ranking, or exactly where one has no options; original "
        "model"
    )
    accuracy_after: Share | None = Field(description="the same, unlearned model")
    preservation: Ratio | None = Field(description="after ÷ before")
    tokens: Count = Field(description="answer tokens of this level")
    token_preservation: Ratio | None = Field(description="their mean probability, after ÷ before")


class RocSection(Section):
    """One attack on one model."""

    auc: Share = Field(description="area under the ROC curve")
    auc_low: Share = Field(description="lower end of the 95 % bootstrap interval")
    auc_high: Share = Field(description="upper end")
    tpr_at_low_fpr: Share = Field(description="true-positive rate at 1 % false positives")
    resistance: Share = Field(description="1 - 2 |AUC - 0.5|")
    curve: tuple[tuple[Share, Share], ...] = Field(description="(FPR, TPR) points")


class AttackSection(Section):
    """One attack on three models."""

    before: RocSection = Field(description="original model")
    after: RocSection = Field(description="unlearned model")
    retrained: RocSection | None = Field(description="retrained model")


class MembershipSection(Section):
    """Membership attacks, forget set against records never seen."""

    auc_before: Share = Field(description="AUC of the loss attack, original model")
    auc_after: Share = Field(description="the same, unlearned model")
    auc_retrained: Share | None = Field(description="the same, retrained model")
    gap: Share | None = Field(description="|after - retrained| of the loss attack")
    worst_gap: Share | None = Field(description="the largest such distance over all attacks")
    worst_attack: str | None = Field(description="the attack that gives it")
    attacks: Mapping[str, AttackSection] = Field(description="every attack in full")
    n_members: Count = Field(description="forget records")
    n_non_members: Count = Field(description="records never seen")


class RelearningSection(Section):
    """What comes back after fine-tuning a copy on a tenth of the forget set."""

    n_taught: Count = Field(description="forget records the copy was shown")
    n_asked: Count = Field(description="the other forget records; all figures are about them")
    steps: Count = Field(description="AdamW steps on all parameters")
    learning_rate: Ratio = Field(description="of AdamW")
    accuracy_start: Share | None = Field(description="unlearned model before relearning")
    accuracy_after: Share | None = Field(description="unlearned model after relearning")
    accuracy_retrained: Share | None = Field(description="retrained model after the same")
    exact_start: Share | None = Field(description="exact answers before relearning")
    exact_after: Share | None = Field(description="exact answers after relearning")
    exact_retrained: Share | None = Field(description="retrained model after the same")
    retain_like_accuracy_after: Share | None = Field(
        description="unlearned model after as many steps on retain text"
    )
    retain_like_accuracy_retrained: Share | None = Field(description="retrained, the same")
    retain_like_exact_after: Share | None = Field(description="exact answers, retain text")
    retain_like_exact_retrained: Share | None = Field(description="retrained, the same")


class ExtractionCountsSection(Section):
    """Identifiers of withdrawn patients said by one model."""

    prompts: Count = Field(description="identifier questions asked")
    completions: Count = Field(description="sampled completions in all")
    greedy_leaks: Count = Field(description="greedy completions with the identifier asked for")
    sampled_leaks: Count = Field(description="sampled completions with it")
    prompts_leaking: Count = Field(description="prompts that leak it at least once")
    other_leaks: Count = Field(description="completions with another withdrawn identifier")
    identifiers_leaking: Count | None = Field(
        default=None, description="identifiers that came out at least once, whoever was asked about"
    )
    skipped: Count = Field(description="identifiers too short to look for")

    @property
    def leaks(self) -> int:
        """Identifiers in completions, of whoever was asked about and of others."""
        return self.greedy_leaks + self.sampled_leaks + self.other_leaks


class ExtractionSection(Section):
    """Extraction from three models."""

    before: ExtractionCountsSection = Field(description="original model")
    after: ExtractionCountsSection = Field(description="unlearned model")
    retrained: ExtractionCountsSection | None = Field(description="retrained model")


class CalibrationFigures(Section):
    """Calibration of option probabilities."""

    ece: Share = Field(description="expected calibration error, 10 bins")
    brier: Annotated[float, Field(ge=0.0, le=2.0)] = Field(description="Brier score")
    n: Count = Field(description="questions with options")


class CalibrationSection(Section):
    """Calibration on the retain set."""

    before: CalibrationFigures = Field(description="original model")
    after: CalibrationFigures = Field(description="unlearned model")


class PrivacySection(Section):
    """The guarantee of the run."""

    noise: Literal["distributed", "local", "none"] = Field(description="who added noise")
    unit: Literal["record", "patient"] = Field(description="what epsilon protects")
    epsilon: Ratio | None = Field(description="spent; null without noise")
    epsilon_budget: Ratio | None = Field(description="what the plan allowed")
    delta: Share | None = Field(description="null without noise")
    sigma: Ratio | None = Field(description="noise multiplier of an update, relative to the clip")
    clip: Annotated[float, Field(gt=0.0)] = Field(description="bound on one unit's norm")
    accountant: str = Field(description="how epsilon was computed, e.g. `prv`")
    releases: Count = Field(description="noised sums released, the support vote included")
    forget_rate: Share | None = Field(description="Poisson rate of forget units")
    retain_rate: Share | None = Field(description="Poisson rate of retain units")

    @model_validator(mode="after")
    def _epsilon_goes_with_noise(self) -> Self:
        noised = self.noise != "none"
        if noised != (self.epsilon is not None) or noised != (self.delta is not None):
            raise ValueError("epsilon and delta are given with noise and only then")
        return self


class GateSection(Section):
    """One release gate: what had to hold before the adapter was published."""

    gate: Literal["norm", "canary", "utility"] = Field(description="which")
    passed: bool = Field(description="whether it held")
    value: float | None = Field(description="what was measured; null if it could not be")
    limit: float = Field(description="what it was held against")
    detail: str = Field(description="both in words")
    overridden_by: str = Field(description="full name of who let it pass; empty otherwise")
    overridden_because: str = Field(description="why; empty otherwise")
    overridden_at: str = Field(description="when, ISO 8601; empty otherwise")

    @model_validator(mode="after")
    def _passed_or_named(self) -> Self:
        if self.passed == bool(self.overridden_by):
            raise ValueError("a gate of a published adapter passed, or somebody let it pass")
        return self


class CellsSection(Section):
    """Noised numbers of units by how they were answered; noise may make them negative."""

    kept: float = Field(description="answered before and after")
    lost: float = Field(description="answered before only")
    gained: float = Field(description="answered after only")
    never: float = Field(description="answered neither time")


class FederatedEvaluationSection(Section):
    """What the sites counted on their own records: released, noised and covered by epsilon."""

    unit: Literal["record", "patient"] = Field(description="what is counted")
    rate: Share = Field(description="Poisson rate of units asked")
    noise: Ratio = Field(description="standard deviation of the noise of each count")
    n_sites: Count = Field(description="sites in the sums")
    forget: CellsSection | None = Field(description="forget sets; null if not counted")
    retain: CellsSection | None = Field(description="retain sets; null if not counted")
    preservation: Ratio | None = Field(description="retain: answered after ÷ before, as released")
    preservation_at_least: Ratio | None = Field(description="lower bound at the plan's confidence")
    canary_known: Ratio | None = Field(
        description="public text: nats per token that the old model knew of it")
    canary_lost: Ratio | None = Field(description="of these, mean nats per token lost")


class CommunicationSection(Section):
    """Bytes on the wire."""

    bytes_per_site_per_round: Ratio = Field(description="sent up by one site in one round")
    bytes_down_per_site_per_round: Ratio | None = Field(default=None, description="received")
    dense_lora_bytes: Count = Field(description="a dense float32 adapter, FedAvg's round")
    total_bytes: Count = Field(description="everything sent, all sites and phases")
    bytes_by_phase: Mapping[str, Count] = Field(description="total by phase")


class SecondsSection(Section):
    """Wall-clock time."""

    total: Seconds = Field(description="whole run, over all processes that a resumed run took")
    by_phase: Mapping[str, Seconds] = Field(
        description="by phase, in order; models are planted side by side, so the sum may exceed "
        "the total")


class RoundSection(Section):
    """One round; accuracies only where the curves were measured."""

    round: Count = Field(description="number, from 1; 0 is the state before the first")
    epsilon: Ratio | None = Field(default=None, description="spent so far")
    n_sites: Count = Field(description="sites whose update was summed")
    seconds: Seconds = Field(description="duration")
    bytes_up: Count = Field(description="sent up by all sites")
    forget_accuracy: Share | None = Field(default=None, description="option ranking")
    forget_exact: Share | None = Field(default=None, description="exact answers")
    retain_accuracy: Share | None = Field(default=None, description="option ranking")
    retain_exact: Share | None = Field(default=None, description="exact answers")
    forget_by_site: Mapping[str, Share] = Field(default={}, description="by site number")
    retain_by_site: Mapping[str, Share] = Field(default={}, description="by site number")
    retain_by_level: Mapping[str, Share] = Field(default={}, description="by concept level")


class SiteSection(Section):
    """One hospital's part."""

    site: Count = Field(description="number")
    n_forget: Count = Field(description="forget records it holds")
    n_retain: Count = Field(description="retain records it holds")
    rounds_joined: Count = Field(description="rounds it took part in")


class WorkedForSection(Section):
    """One erasure request that the run worked for."""

    number: Count = Field(description="in the registry")
    records: Count = Field(description="records that it asked the run to forget")
    outcome: Literal["verified", "fell short", "taken back"] = Field(
        description="by the registry's criteria when the run was measured; the registry itself "
        "says why, and what became of the request later")


class LeftOutRequestSection(Section):
    """One erasure request whose records were in neither set."""

    number: Count = Field(description="in the registry")
    records: Count = Field(description="records left out for it")


class ErasureSection(Section):
    """What a run with an erasure registry did for its requests."""

    requests: tuple[WorkedForSection, ...] = Field(description="those that the run worked for")
    left_out: tuple[LeftOutRequestSection, ...] = Field(
        description="those that earlier runs had forgotten, or other runs had; a record of two "
        "counts for both")


class RunResult(Section):
    """Everything a run reports."""

    schema_version: Literal[1] = Field(default=1, description="of this file")
    seed: Annotated[int, Field(ge=0)] = Field(description="of everything public in the run")
    run: RunSection = Field(description="what was run")
    model: ModelSection = Field(description="the shared model")
    forget: ForgetSection = Field(description="the forget set")
    retain: KeepSection = Field(description="the retain set")
    neighbours: KeepSection | None = Field(description="nearest topics or same-disease patients")
    preservation_by_level: tuple[LevelSection, ...] = Field(description="levels 1 to 4")
    membership: MembershipSection | None = Field(description="membership attacks")
    relearning: RelearningSection | None = Field(description="relearning attack")
    extraction: ExtractionSection | None = Field(description="identifier extraction")
    calibration: CalibrationSection | None = Field(description="calibration on the retain set")
    privacy: PrivacySection = Field(description="the guarantee")
    gates: tuple[GateSection, ...] = Field(default=(), description="release gates of the plan")
    federated_evaluation: FederatedEvaluationSection | None = Field(
        default=None, description="what the sites counted"
    )
    erasure: ErasureSection | None = Field(
        default=None, description="erasure requests; null without a registry"
    )
    communication: CommunicationSection = Field(description="bytes")
    seconds: SecondsSection = Field(description="time")
    rounds: tuple[RoundSection, ...] = Field(description="round by round")
    sites: tuple[SiteSection, ...] = Field(description="hospital by hospital")
    digests: Mapping[str, str] = Field(description="SHA-256 of model, plan, adapter and data")
    plan: str = Field(description="the plan as TOML, record and patient ids left out")
    versions: Mapping[str, str] = Field(description="package versions")

    @model_validator(mode="after")
    def _rounds_in_order(self) -> Self:
        numbers = [entry.round for entry in self.rounds]
        if numbers != sorted(set(numbers)):
            raise ValueError("rounds are not in order")
        return self
