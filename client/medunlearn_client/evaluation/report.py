"""The whole evaluation of one unlearning: original, unlearned and retrained side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from medunlearn_client.evaluation.calibration import Calibration
from medunlearn_client.evaluation.extraction import (
    ExtractionReport,
    ExtractionSettings,
)
from medunlearn_client.evaluation.membership import (
    MembershipReport,
    reframe,
)
from medunlearn_client.evaluation.preservation import (
    LevelPreservation,
    SpanTagger,
)
from medunlearn_client.evaluation.relearning import (
    RelearningReport,
    RelearningSettings,
)
from medunlearn_client.evaluation.scoring import ScoringLimits
from medunlearn_client.records import Record
from medunlearn_common.errors import Misconfigured

StageProgress = Callable[[str, int], None]


@dataclass(frozen=True, kw_only=True, repr=False)
class EvaluationInputs:
    """The record sets of one evaluation.

    Attributes:
        forget: What was to be forgotten.
        retain: What was to be kept.
        non_members: Records of the forget set's kind that no model was trained on.
        neighbours: Nearest topics, or other patients with the same disease.
        paraphrased: What was to be forgotten in other words; empty where the run used none.
        forget_unnamed: Forget records without the subject that their prompts show; empty where
            none is shown.
        retain_unnamed: Retain records likewise.
        site_of: Site number by record id, in a simulation, whose records have ids of their own;
            records without one are left out of per-site rows.
        tagger: Finds concepts and their levels; None puts every question at level 1.
        requests: Places in ``forget`` by the request that asks for the records there; requests may
            share records. Places, since rows of a hospital may share an id.

    Raises:
        Misconfigured: EVALUATION_SET_EMPTY, or RECORD_IN_BOTH_SETS: the same record stands in both,
            whatever other record bears its id.
    """

    forget: Sequence[Record]
    retain: Sequence[Record]
    non_members: Sequence[Record] = ()
    neighbours: Sequence[Record] = ()
    paraphrased: Sequence[Record] = ()
    forget_unnamed: Sequence[Record] = ()
    retain_unnamed: Sequence[Record] = ()
    site_of: Mapping[str, int] = field(default_factory=dict)
    tagger: SpanTagger | None = None
    requests: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.forget or not self.retain:
            raise Misconfigured(
                "EVALUATION_SET_EMPTY",
                "the forget set or the retain set has no records to evaluate on",
                "check the data paths and the forget request",
            )
        members = set(self.forget)
        for name in ("retain", "non_members", "neighbours"):
            shared = sum(record in members for record in getattr(self, name))
            if shared:
                raise Misconfigured(
                    "RECORD_IN_BOTH_SETS",
                    f"{shared} record(s) stand in the forget set and in `{name}`",
                    "give every record to one set only",
                )

    def site_names(self, records: Iterable[Record]) -> tuple[str | None, ...]:
        """Each record's site as a group's name; None where it has none."""
        sites = (self.site_of.get(record.record_id) for record in records)
        return tuple(None if site is None else str(site) for site in sites)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What is measured and how hard.

    Attributes:
        seed: Of option shuffling and bootstrap.
        limits: Batch sizes.
        n_bootstrap: Bootstrap replicates per ROC curve.
        relearning: The relearning attacker; None skips it.
        extraction: The extraction attacker; None skips it.
        paraphrase: Other wordings of a record for the paraphrase attack; None skips it.
    """

    seed: int = 0
    limits: ScoringLimits = field(default_factory=ScoringLimits)
    n_bootstrap: int = 1000
    relearning: RelearningSettings | None = field(default_factory=RelearningSettings)
    extraction: ExtractionSettings | None = field(default_factory=ExtractionSettings)
    paraphrase: Callable[[Record], Sequence[Record]] | None = reframe


@dataclass(frozen=True, kw_only=True)
class ThreeWay:
    """How three models answer a group of records.

    Attributes:
        n: Records.
        n_ranked: Those of them that have options; chance and accuracies are about these.
        chance: What guessing among the options reaches.
        accuracy_before: Option ranking, original model; ``_after`` and ``_retrained`` likewise.
        exact_before: Greedy exact answers of all records, original model.
        answered_before: Each record by its options, or exactly where it has none, original model.
    """

    n: int
    n_ranked: int
    chance: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_retrained: float | None
    exact_before: float | None
    exact_after: float | None
    exact_retrained: float | None
    answered_before: float | None
    answered_after: float | None
    answered_retrained: float | None


@dataclass(frozen=True, kw_only=True)
class ForgetReport(ThreeWay):
    """The forget set.

    Attributes:
        gap: |accuracy after - accuracy of the retrained model|, the figure to bring to 0.
        exact_gap: The same for exact answers.
        forgetting_rate: 1 - accuracy after, as arXiv 2511.19498 reports it.
        relative_forgetting: 1 - accuracy after ÷ accuracy before.
        paraphrased: The forget set in the other wordings that the run used.
        unnamed: A sample of it, asked without the subject that the prompts show.
        by_site: Rows by site number.
        by_subject: Rows by subject.
        by_level: Rows by question level.
    """

    gap: float | None
    exact_gap: float | None
    forgetting_rate: float | None
    relative_forgetting: float | None
    paraphrased: ThreeWay | None
    unnamed: ThreeWay | None
    by_site: Mapping[str, ThreeWay]
    by_subject: Mapping[str, ThreeWay]
    by_level: Mapping[str, ThreeWay]


@dataclass(frozen=True, kw_only=True)
class KeepReport(ThreeWay):
    """The retain set, or the neighbours.

    Attributes:
        preservation: Answered after ÷ before: each record by its options, or exactly where it has
            none.
        exact_preservation: The same for exact answers.
        unnamed: A sample of it, asked without the subject that the prompts show.
        by_site: Rows by site number.
        by_subject: Rows by subject.
        by_level: Rows by question level.
    """

    preservation: float | None
    exact_preservation: float | None
    unnamed: ThreeWay | None
    by_site: Mapping[str, ThreeWay]
    by_subject: Mapping[str, ThreeWay]
    by_level: Mapping[str, ThreeWay]


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """Calibration on the retain set."""

    before: Calibration
    after: Calibration


@dataclass(frozen=True, kw_only=True)
class RequestReport:
    """One request's own forget records.

    Attributes:
        answers: What the three models answer to them.
        identifiers_asked: Its identifiers that were asked for; None if extraction was not
            measured.
        identifiers_leaked: Those of them that a completion gave away, of their own prompt or of
            another; None if not measured.
        identifiers_leaked_before: The same of the original model.
    """

    answers: ThreeWay
    identifiers_asked: int | None
    identifiers_leaked: int | None
    identifiers_leaked_before: int | None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Every figure of one evaluation; carries no record text and no record id."""

    forget: ForgetReport
    retain: KeepReport
    neighbours: KeepReport | None
    preservation_by_level: tuple[LevelPreservation, ...]
    membership: MembershipReport | None
    relearning: RelearningReport | None
    extraction: ExtractionReport | None
    calibration: CalibrationReport | None
    seed: int
    requests: Mapping[str, RequestReport] = field(default_factory=dict)
