"""The privacy statement in plain words: what is proven, what is only measured, what is neither."""

from __future__ import annotations

import math
from dataclasses import dataclass

from medunlearn_common.pages.formatting import count, decimal, percent, scientific
from medunlearn_simulation.report.verdicts import relearned_as_never_taught
from medunlearn_simulation.result_schema import ExtractionCountsSection, RunResult


@dataclass(frozen=True, kw_only=True)
class Statement:
    """Three lists of sentences."""

    proven: tuple[str, ...]
    measured: tuple[str, ...]
    not_claimed: tuple[str, ...]


def privacy_statement(result: RunResult) -> Statement:
    """Words that claim no more than the run shows."""
    return Statement(
        proven=_proven(result), measured=_measured(result), not_claimed=_not_claimed(result)
    )


def _proven(result: RunResult) -> tuple[str, ...]:
    privacy = result.privacy
    if privacy.epsilon is None or privacy.delta is None:
        return ("Nothing: this run added no noise, so its updates carry no privacy guarantee.",)
    unit = "patient (all their records together)" if privacy.unit == "patient" else "record"
    sentences = [
        f"Whatever anyone concludes from all that was released in this run, they would conclude "
        f"with a similar chance had any single {unit} been left out: the chance changes by "
        f"a factor of at most {_factor(privacy.epsilon)} (e to the power ε), except with "
        f"probability δ = {scientific(privacy.delta)}.",
        f"ε = {decimal(privacy.epsilon)} counts all {count(privacy.releases)} releases"
        f"{_budget(result)}. It was computed by the {privacy.accountant} accountant for adding "
        f"or removing one {privacy.unit}. Later use of the adapter costs nothing more.",
        f"Each {privacy.unit} could move the sum by at most {privacy.clip:g} (its clipped norm); "
        f"noise of {decimal(privacy.sigma)} times that was added.",
    ]
    return tuple(sentences)


def _factor(epsilon: float) -> str:
    """e to the power epsilon as people read numbers, rounded up: it is a bound."""
    factor = math.exp(epsilon)
    if factor >= 1e6:
        return scientific(factor)
    if factor >= 100:
        return count(math.ceil(factor))
    digits = 2 if factor < 10 else 1
    return decimal(math.ceil(factor * 10**digits) / 10**digits, digits)


def _budget(result: RunResult) -> str:
    budget = result.privacy.epsilon_budget
    return "" if budget is None else f", of {budget:g} allowed"


def _measured(result: RunResult) -> tuple[str, ...]:
    sentences = [
        f"Forgetting is measured, not proven: on {count(result.forget.n)} forgotten questions, "
        "beside a model retrained without them, by the attacks of this report."
    ]
    if result.relearning is not None:
        sentences.append(relearning_words(result))
    if result.extraction is not None:
        sentences.append(_extraction_words(result.extraction.after))
    return tuple(sentences)


def _extraction_words(found: ExtractionCountsSection) -> str:
    """How many identifiers came out; results of former versions say it of own prompts only."""
    leaking = found.identifiers_leaking
    words = (
        f"{found.prompts_leaking if leaking is None else leaking} of {found.prompts} identifiers "
        "of withdrawn patients came out"
    )
    if leaking is None and found.other_leaks:
        words += (
            f" when they were asked for, and {count(found.other_leaks)} completions held another's"
        )
    return (
        f"{words}, in {count(found.completions)} sampled and {found.prompts} greedy completions."
    )


def relearning_words(result: RunResult) -> str:
    """What relearning found, in one or two sentences; empty where it was not measured."""
    found = result.relearning
    if found is None:
        return ""
    after = _first(found.accuracy_after, found.exact_after)
    gold = _first(found.accuracy_retrained, found.exact_retrained)
    fact = (
        f"After {found.steps} training steps on {found.n_taught} of the forgotten records, "
        f"{percent(after)} of the others are answered right (never taught: {percent(gold)})"
    )
    if found.accuracy_after is not None:
        fact += (
            f", {percent(found.exact_after)} word for word ({percent(found.exact_retrained)})"
        )
    fact += "."
    passed = relearned_as_never_taught(found)
    if passed is None:
        return fact
    if passed:
        return f"{fact} Relearning found next to nothing that a model never taught would not find."
    return f"{fact} The distance is knowledge that was suppressed and not erased."


def _not_claimed(result: RunResult) -> tuple[str, ...]:
    sentences = [
        "The base model is unchanged: without the adapter it still knows what was forgotten, and "
        "so does every copy made earlier. Delete or replace those.",
        "ε limits what the updates of this run reveal. It says nothing about how the base model "
        "was trained, and it is no measure of forgetting.",
        "The figures of this report were computed on the records themselves and are not covered "
        "by ε. Share the report with that in mind.",
        "This was a simulation: its noise was drawn from the run's seed so that it can be "
        "repeated, and whoever knows the seed can take it off. Hospitals draw theirs from "
        "the operating system.",
        "Questions, wordings and attacks that were not tried may behave differently.",
    ]
    if result.privacy.noise == "distributed":
        sentences.insert(
            1,
            "The noise was added in shares: the guarantee is about the sum over the sites. One "
            "site's own contribution carries its share only, and is covered only as far as the "
            "summation hides it.",
        )
    return tuple(sentences)


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)
