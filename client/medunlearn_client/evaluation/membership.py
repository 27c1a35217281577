"""Membership attacks: can an outsider tell that the forget set was ever trained on?

Members are the forget set, non-members come from the same source and were never seen. Every
attack gives one number per record, higher for "was in the training data". What counts is the
distance to the retrained model under the same attack: its AUC is what honest forgetting leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medunlearn_client.evaluation.record_scores import RecordScores, score_records
from medunlearn_client.evaluation.roc import RocSummary, summarise_roc
from medunlearn_client.evaluation.scored_model import ScoredModel
from medunlearn_client.evaluation.scoring import AnswerScore, Progress, ScoringLimits
from medunlearn_client.records import Record

MIN_K_SHARE = 0.2  # the share of least likely tokens that Min-K%++ averages
HEADLINE_ATTACK = "loss"
_DIGITS = 5  # of a difference of mean losses; float32 scores agree to about 1e-6
_QUESTION, _ANSWER = "Question: ", "\nAnswer:"
FRAMES = (
    "{question}\nThe answer is:",
    "Q: {question}\nA:",
    "Please answer this medical question: {question}\nAnswer:",
)


@dataclass(frozen=True, kw_only=True, repr=False)
class Evidence:
    """What an attacker sees of one record.

    Attributes:
        record_id: The record's id.
        group: The patient, or the record itself: what the bootstrap resamples.
        own: Scores under the attacked model, prompt included.
        reference: Scores under a model that never saw the record.
        paraphrases: Scores of the answer in other wordings of the question.
    """

    record_id: str
    group: str
    own: AnswerScore
    reference: AnswerScore | None
    paraphrases: tuple[AnswerScore, ...]


def _loss(evidence: Evidence) -> float | None:
    return _answer_mean(evidence.own)


def _reference(evidence: Evidence) -> float | None:
    if evidence.reference is None:
        return None
    # In batches of another make-up the same model's scores differ by rounding, which tells nothing.
    return round(_answer_mean(evidence.own) - _answer_mean(evidence.reference), _DIGITS)


def _min_k(evidence: Evidence) -> float | None:
    return _lowest_mean(evidence.own, evidence.own.n_prompt)


def _text_loss(evidence: Evidence) -> float | None:
    return float(evidence.own.log_probs.mean())


def _text_min_k(evidence: Evidence) -> float | None:
    return _lowest_mean(evidence.own, 0)


def _paraphrase(evidence: Evidence) -> float | None:
    if not evidence.paraphrases:
        return None
    return float(np.mean([_answer_mean(score) for score in evidence.paraphrases]))


def _answer_mean(score: AnswerScore) -> float:
    """Mean log-probability of the answer and its ending, what training minimised."""
    return float(score.log_probs[score.n_prompt :].mean())


def _lowest_mean(score: AnswerScore, first: int) -> float:
    """Min-K%++: mean of the lowest fifth of the tokens' z-scores, at least one token."""
    values = np.sort(score.z_scores[first:])
    return float(values[: max(1, round(MIN_K_SHARE * len(values)))].mean())


ATTACKS: Mapping[str, Callable[[Evidence], float | None]] = {
    "loss": _loss,
    "min_k_plus_plus": _min_k,
    "reference": _reference,
    "paraphrase": _paraphrase,
    "text_loss": _text_loss,
    "text_min_k_plus_plus": _text_min_k,
}


@dataclass(frozen=True, kw_only=True)
class AttackComparison:
    """One attack on the model before, after and on the retrained one."""

    before: RocSummary
    after: RocSummary
    retrained: RocSummary | None


@dataclass(frozen=True, kw_only=True)
class MembershipReport:
    """All attacks.

    Attributes:
        auc_before: AUC of the loss attack on the original model.
        auc_after: The same on the unlearned model.
        auc_retrained: The same on the retrained model.
        gap: |after - retrained| of the loss attack.
        worst_gap: The largest such distance over all attacks.
        worst_attack: The attack that gives it.
        attacks: Every attack in full.
        n_members: Records in the forget set.
        n_non_members: Records never seen.
    """

    auc_before: float
    auc_after: float
    auc_retrained: float | None
    gap: float | None
    worst_gap: float | None
    worst_attack: str | None
    attacks: Mapping[str, AttackComparison]
    n_members: int
    n_non_members: int


def reframe(record: Record) -> tuple[Record, ...]:
    """The same question in other frames: the wording changes, the fact does not."""
    question = record.prompt.removeprefix(_QUESTION).removesuffix(_ANSWER)
    return tuple(
        replace(record, prompt=frame.format(question=question), target_spans=()) for frame in FRAMES
    )


def gather_evidence(
    scored: ScoredModel,
    records: Sequence[Record],
    *,
    reference: Sequence[AnswerScore] | None,
    paraphrase: Callable[[Record], Sequence[Record]] | None = reframe,
    limits: ScoringLimits | None = None,
    on_progress: Progress | None = None,
) -> tuple[Evidence, ...]:
    """Scores the records as an attacker would.

    Args:
        scored: The attacked model.
        records: Members or non-members.
        reference: Whole-text scores of these records under a model that saw neither.
        paraphrase: Gives other wordings of a record; None leaves that attack out.
        limits: Batch sizes.
        on_progress: Called with the number of texts finished.
    """
    wordings = [tuple(paraphrase(record)) if paraphrase else () for record in records]
    flat = [*records, *(wording for group in wordings for wording in group)]
    scores = score_records(
        scored,
        flat,
        seed=0,
        with_options=False,
        whole_text=True,
        limits=limits,
        on_progress=on_progress,
    )
    rest = iter(scores[len(records) :])
    references: Sequence[AnswerScore | None] = (
        [None] * len(records) if reference is None else reference
    )
    return tuple(
        Evidence(
            record_id=record.record_id,
            group=record.patient_id or record.record_id,
            own=score.answer,
            reference=known,
            paraphrases=tuple(next(rest).answer for _ in group),
        )
        for record, group, score, known in zip(
            records, wordings, scores[: len(records)], references, strict=True
        )
    )


def reference_scores(
    scored: ScoredModel, records: Sequence[Record], *, limits: ScoringLimits | None = None
) -> tuple[AnswerScore, ...]:
    """Whole-text scores of the records under the reference model, in their order."""
    found: tuple[RecordScores, ...] = score_records(
        scored, records, seed=0, with_options=False, whole_text=True, limits=limits
    )
    return tuple(score.answer for score in found)


def run_attacks(
    members: Sequence[Evidence],
    non_members: Sequence[Evidence],
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, RocSummary]:
    """Runs every attack that the evidence allows."""
    found: dict[str, RocSummary] = {}
    for name, attack in ATTACKS.items():
        inside = [attack(evidence) for evidence in members]
        outside = [attack(evidence) for evidence in non_members]
        positive = [value for value in inside if value is not None]
        negative = [value for value in outside if value is not None]
        if len(positive) < len(inside) or len(negative) < len(outside):
            continue
        found[name] = summarise_roc(
            positive,
            negative,
            member_groups=[evidence.group for evidence in members],
            non_member_groups=[evidence.group for evidence in non_members],
            n_bootstrap=n_bootstrap,
            seed=seed,
        )
    return found


def membership_report(
    before: Mapping[str, RocSummary],
    after: Mapping[str, RocSummary],
    retrained: Mapping[str, RocSummary] | None,
    *,
    n_members: int,
    n_non_members: int,
) -> MembershipReport:
    """Puts the attacks on the three models side by side."""
    attacks = {
        name: AttackComparison(
            before=before[name],
            after=after[name],
            retrained=retrained.get(name) if retrained is not None else None,
        )
        for name in ATTACKS
        if name in before and name in after
    }
    gaps = {
        name: abs(found.after.auc - found.retrained.auc)
        for name, found in attacks.items()
        if found.retrained is not None
    }
    worst = max(gaps, key=lambda name: gaps[name]) if gaps else None
    headline = attacks[HEADLINE_ATTACK]
    return MembershipReport(
        auc_before=headline.before.auc,
        auc_after=headline.after.auc,
        auc_retrained=headline.retrained.auc if headline.retrained is not None else None,
        gap=gaps.get(HEADLINE_ATTACK),
        worst_gap=gaps[worst] if worst is not None else None,
        worst_attack=worst,
        attacks=attacks,
        n_members=n_members,
        n_non_members=n_non_members,
    )
