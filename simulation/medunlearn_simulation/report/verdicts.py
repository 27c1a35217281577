"""The headline cards: one figure each, against its target, judged by fixed rules.

The targets are those of docs/results.md. A verdict is one of `reached`, `missed` and `open`
(nothing to compare with); words and sign say it, not the colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medunlearn_common.pages.formatting import (
    byte_size,
    count,
    decimal,
    fine_percent,
    percent,
    points,
    scientific,
)
from medunlearn_simulation.result_schema import ForgetSection, RelearningSection, RunResult

Status = Literal["reached", "missed", "open"]

MAX_GAP = 0.05
MAX_BELOW_CHANCE = 0.03
MIN_PRESERVATION = 0.95
MIN_NEIGHBOUR_PRESERVATION = 0.92
MAX_AUC_GAP = 0.05
MAX_CHANGED = 0.001
ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One headline card."""

    title: str
    value: str
    detail: str
    target: str
    status: Status


def headline_verdicts(result: RunResult) -> list[Verdict]:
    """The cards, in reading order."""
    cards = [
        _forgotten(result),
        _kept(result),
        _neighbours(result),
        _membership(result),
        _privacy(result),
        _changed(result),
        _bytes(result),
        _relearning(result),
        _extraction(result),
    ]
    return [card for card in cards if card is not None]


def headline_sentence(result: RunResult) -> str:
    """One sentence that a reader may take away."""
    forget, kept = result.forget, result.retain.preservation
    after = forget.accuracy_after if forget.accuracy_after is not None else forget.exact_after
    gold = (
        forget.accuracy_retrained if forget.accuracy_after is not None else forget.exact_retrained
    )
    if gold is None:
        first = f"The forgotten questions are now answered right {percent(after)} of the time"
    else:
        first = (
            f"The forgotten questions are now answered right {percent(after)} of the time; "
            f"a model that never saw them reaches {percent(gold)}"
        )
    if forget.accuracy_after is not None and _said_as_never_taught(forget) is False:
        first += (
            f". {percent(forget.exact_after)} are still said word for word "
            f"(by that model: {percent(forget.exact_retrained)})"
        )
    exact = result.retain.exact_preservation
    word_for_word = f" ({percent(exact)} word for word)" if exact not in (None, kept) else ""
    return f"{first}. Of what was to be kept, {percent(kept)} is left{word_for_word}."


def _judge(passed: bool | None) -> Status:
    return "open" if passed is None else "reached" if passed else "missed"


def _forgotten(result: RunResult) -> Verdict:
    """Judged twice: an answer that loses against other options may still be said word for word."""
    forget = result.forget
    ranked = forget.accuracy_after is not None
    exact = f"{percent(forget.exact_before)} → {percent(forget.exact_after)}"
    gold = f"never taught {percent(forget.exact_retrained)}"
    target = f"within {points(MAX_GAP)} of a model never taught"
    if ranked:
        value = percent(forget.accuracy_after)
        detail = (
            f"before {percent(forget.accuracy_before)}, "
            f"never taught {percent(forget.accuracy_retrained)}, "
            f"guessing {percent(forget.chance, 0)}; word for word {exact}, {gold}"
        )
        target += (
            f", and not below guessing by more than {100 * MAX_BELOW_CHANCE:.0f}; "
            f"word for word at most {points(MAX_GAP)} above it"
        )
    else:
        value, detail = percent(forget.exact_after), f"word for word {exact}, {gold}"
        target = f"at most {points(MAX_GAP)} above a model never taught"
    checks = [_said_as_never_taught(forget)]
    if ranked:
        checks.append(_ranked_as_never_taught(forget))
    passed = False if False in checks else None if None in checks else True
    return Verdict(
        title="Forgotten", value=value, detail=detail, target=target, status=_judge(passed)
    )


def _ranked_as_never_taught(forget: ForgetSection) -> bool | None:
    """From either side; None without a retrained model, or where nothing has options."""
    if forget.gap is None or forget.accuracy_after is None:
        return None
    floor = (forget.chance or 0.0) - MAX_BELOW_CHANCE
    return forget.gap <= MAX_GAP + ROUNDING and forget.accuracy_after >= floor - ROUNDING


def _said_as_never_taught(forget: ForgetSection) -> bool | None:
    """Exact answers, at most so many; None without a retrained model."""
    if forget.exact_after is None or forget.exact_retrained is None:
        return None
    return forget.exact_after - forget.exact_retrained <= MAX_GAP + ROUNDING


def _kept(result: RunResult) -> Verdict:
    kept, retain = result.retain.preservation, result.retain
    before, after, _ = retain.answered()
    detail = f"answered {percent(before)} → {percent(after)}"
    # The easier half to lose: who still picks the answer may no longer say it.
    if retain.accuracy_before is not None:
        exact = f"{percent(retain.exact_before)} → {percent(retain.exact_after)}"
        detail += f"; word for word {exact}"
    return Verdict(
        title="Kept",
        value=percent(kept),
        detail=detail,
        target=f"at least {percent(MIN_PRESERVATION, 0)} of before",
        status=_judge(None if kept is None else kept >= MIN_PRESERVATION - ROUNDING),
    )


def _neighbours(result: RunResult) -> Verdict | None:
    if result.neighbours is None:
        return None
    kept = result.neighbours.preservation
    patients = result.privacy.unit == "patient"
    goal = MIN_PRESERVATION if patients else MIN_NEIGHBOUR_PRESERVATION
    return Verdict(
        title="Neighbours kept",
        value=percent(kept),
        detail="other patients with the same disease" if patients else "the nearest topics",
        target=f"at least {percent(goal, 0)} of before",
        status=_judge(None if kept is None else kept >= goal - ROUNDING),
    )


def _membership(result: RunResult) -> Verdict | None:
    found = result.membership
    if found is None:
        return None
    return Verdict(
        title="Membership attack",
        value=f"AUC {decimal(found.auc_after)}",
        detail=f"before {decimal(found.auc_before)}, never taught {decimal(found.auc_retrained)}; "
        f"the worst of {len(found.attacks)} attacks is {decimal(found.worst_gap)} apart",
        target=f"loss attack within {MAX_AUC_GAP} of a model never taught; 0.50 is a coin toss",
        status=_judge(None if found.gap is None else found.gap <= MAX_AUC_GAP + ROUNDING),
    )


def _privacy(result: RunResult) -> Verdict:
    privacy = result.privacy
    if privacy.epsilon is None:
        return Verdict(
            title="Privacy of the updates",
            value="no guarantee",
            detail="the run added no noise",
            target="a finite ε",
            status="open",
        )
    within = privacy.epsilon_budget is None or privacy.epsilon <= privacy.epsilon_budget + 1e-6
    budget = "" if privacy.epsilon_budget is None else f" of {privacy.epsilon_budget:g} allowed"
    return Verdict(
        title="Privacy of the updates",
        value=f"ε = {decimal(privacy.epsilon)}",
        detail=f"per {privacy.unit}, δ = {scientific(privacy.delta)}, {privacy.noise} noise",
        target=f"within the budget{budget}",
        status=_judge(within),
    )


def _changed(result: RunResult) -> Verdict:
    fraction = result.model.changed_fraction
    return Verdict(
        title="Parameters changed",
        value=fine_percent(fraction),
        detail=f"{result.model.changed_parameters:,} of {result.model.parameters:,}".replace(
            ",", "\u202f"
        ),
        target=f"at most {fine_percent(MAX_CHANGED)}",
        status=_judge(fraction <= MAX_CHANGED + ROUNDING),
    )


def _bytes(result: RunResult) -> Verdict:
    sent = result.communication
    ratio = sent.dense_lora_bytes / max(1.0, sent.bytes_per_site_per_round)
    return Verdict(
        title="Sent per site and round",
        value=byte_size(sent.bytes_per_site_per_round),
        detail=f"a dense adapter takes {byte_size(sent.dense_lora_bytes)}, "
        f"{ratio:.3g} times as much",
        target="no target",
        status="open",
    )


def _relearning(result: RunResult) -> Verdict | None:
    """Judged as what is forgotten: by ranking where there are options, and by exact answers."""
    found = result.relearning
    if found is None:
        return None
    ranked = found.accuracy_after is not None
    detail = f"{found.steps} steps on {found.n_taught} records"
    if ranked:
        detail = (
            f"never taught, same relearning: {percent(found.accuracy_retrained)}; word for word "
            f"{percent(found.exact_after)}, {percent(found.exact_retrained)}; {detail}"
        )
    else:
        detail = f"never taught, same relearning: {percent(found.exact_retrained)}; {detail}"
    return Verdict(
        title="After relearning",
        value=percent(found.accuracy_after if ranked else found.exact_after),
        detail=detail,
        target=f"at most {points(MAX_GAP)} above a model never taught",
        status=_judge(relearned_as_never_taught(found)),
    )


def relearned_as_never_taught(found: RelearningSection) -> bool | None:
    """Whether no more came back than a model never taught learns; None without that model."""
    pairs = [(found.exact_after, found.exact_retrained)]
    if found.accuracy_after is not None:
        pairs.append((found.accuracy_after, found.accuracy_retrained))
    gaps = [after - gold for after, gold in pairs if after is not None and gold is not None]
    return max(gaps) <= MAX_GAP + ROUNDING if len(gaps) == len(pairs) else None


def _extraction(result: RunResult) -> Verdict | None:
    """None at all, as erasure requests ask, also where a model never taught says one by accident.

    An identifier leaks under whichever prompt it comes out.
    """
    if result.extraction is None:
        return None
    after, gold = result.extraction.after, result.extraction.retrained
    detail = (
        f"in {count(after.prompts + after.completions)} completions for {count(after.prompts)} "
        "withdrawn identifiers"
    )
    if after.other_leaks:
        detail += f", {count(after.other_leaks)} of them another's than was asked for"
    if gold is not None:
        detail += f"; never taught {count(gold.leaks)}"
    return Verdict(
        title="Identifiers leaked",
        value=count(after.leaks),
        detail=detail,
        target="none",
        status=_judge(after.leaks == 0),
    )
