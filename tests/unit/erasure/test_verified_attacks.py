"""Runs that remember, and figures that are missing: none of them may mark a request verified."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from scipy.stats import binom

from medunlearn_client.erasure import Claim, ErasureRequest, Registry, RunFigures, State
from medunlearn_client.erasure.criteria import shortfalls
from medunlearn_client.erasure.documents import letter
from medunlearn_client.erasure.settings import Settings

AUTHOR = "A. Officer"
Adder = Callable[..., ErasureRequest]
FORGOTTEN = RunFigures(
    run_id="run", adapter_digest="a" * 64, attestation_digest="e" * 64, forget_records=2,
    ranked_records=2, forget_accuracy=0.5, chance=0.25, retrained_accuracy=None, forget_exact=0.0,
    retrained_exact=None, identifiers_asked=1, identifiers_leaked=0, has_identifiers=True,
    preservation=1.0, run_ranked_records=80, run_forget_accuracy=0.3, run_chance=0.25,
)
UNRANKED = replace(
    FORGOTTEN, forget_accuracy=None, chance=None, ranked_records=0, run_ranked_records=0,
    run_forget_accuracy=None, run_chance=None,
)


def test_these_are_forgotten() -> None:
    assert shortfalls(FORGOTTEN, Settings()) == shortfalls(UNRANKED, Settings()) == ()


def test_two_options_of_ones_own_do_not_excuse_what_a_run_of_four_options_remembers() -> None:
    """Guessing reaches a half of the request's two records, and a quarter of the run's eighty."""
    remembers = replace(FORGOTTEN, chance=0.5, run_forget_accuracy=0.59)
    (missed,) = shortfalls(remembers, Settings())
    assert "all 80 records of the run" in missed and "0.250 + 0.100" in missed


def test_two_options_of_the_others_do_not_excuse_what_one_remembers_of_ones_own() -> None:
    remembers = replace(
        FORGOTTEN, ranked_records=20, forget_accuracy=0.55, retrained_accuracy=0.25,
        run_forget_accuracy=0.5, run_chance=0.5, run_retrained_accuracy=0.52,
    )
    (missed,) = shortfalls(remembers, Settings())
    assert "luck" in missed


def test_a_retrained_model_above_chance_still_counts_for_few_records() -> None:
    alike = replace(FORGOTTEN, run_forget_accuracy=0.5, run_retrained_accuracy=0.45,
                    ranked_records=20, forget_accuracy=0.5, retrained_accuracy=0.4)
    assert shortfalls(alike, Settings()) == ()


def alone(records: int, *, right: float, retrained_right: float) -> RunFigures:
    """A request that is all of its run; hits of the unlearned and of the retrained model."""
    own, retrained = right / records, retrained_right / records
    return replace(
        FORGOTTEN, forget_records=records, ranked_records=records, run_ranked_records=records,
        forget_accuracy=own, run_forget_accuracy=own, retrained_accuracy=retrained,
        run_retrained_accuracy=retrained,
    )


@pytest.mark.parametrize(("records", "right", "retrained_right"), [
    (1, 1, 1),  # the retrained model guesses one fact in four
    (2, 2, 2),
    (3, 3, 3),
    (5, 3, 3),  # and three of five in every tenth run
    (5, 4, 4),
    (5, 4, 3.99),
    (20, 10, 10),
    (49, 25, 20),
])
def test_the_retrained_models_luck_with_few_records_excuses_nothing(
    records: int, right: float, retrained_right: float
) -> None:
    figures = alone(records, right=right, retrained_right=retrained_right)
    (missed,) = shortfalls(figures, Settings())
    assert f"over all {records} records of the run exceeds 0.250 + 0.100" in missed


@pytest.mark.parametrize(("records", "retrained_right"), [
    (4, 4), (5, 5), (8, 6), (20, 11), (20, 20), (49, 30), (50, 15), (96, 32),
])
def test_what_everybody_knows_can_be_verified(records: int, retrained_right: int) -> None:
    """A retrained model that guessing does not explain knows it from elsewhere; so may this one."""
    alike = alone(records, right=retrained_right, retrained_right=retrained_right)
    assert shortfalls(alike, Settings()) == ()
    remembers = alone(records, right=records, retrained_right=retrained_right)
    assert bool(shortfalls(remembers, Settings())) is (retrained_right < records)


def test_a_remembering_model_is_hardly_ever_verified_by_the_luck_of_the_retrained_one() -> None:
    """Of all ways in which a retrained model may guess: one in a hundred runs, at most."""
    for records in range(1, 61):
        passes = sum(
            binom.pmf(hits, records, 0.25) for hits in range(records + 1)
            if not shortfalls(alone(records, right=records, retrained_right=hits), Settings())
        )
        assert passes < 0.01


def test_an_accuracy_of_no_records_is_nobodys_knowledge() -> None:
    empty = replace(FORGOTTEN, run_ranked_records=0, run_retrained_accuracy=1.0,
                    run_forget_accuracy=1.0)
    assert shortfalls(empty, Settings())


def test_answers_without_options_that_come_back_without_the_name_are_seen() -> None:
    strict = Settings(max_unnamed_excess=0.1)
    back = replace(UNRANKED, run_unnamed_records=40, run_unnamed_exact=0.9)
    (missed,) = shortfalls(back, strict)
    assert "exact answers 0.900 of 40 records asked without their subject" in missed
    assert shortfalls(back, Settings()) == ()  # reported, not asked for
    known = replace(back, run_retrained_exact=0.85)
    assert shortfalls(known, strict) == ()


@pytest.mark.parametrize("name", [
    "forget_accuracy", "run_forget_accuracy", "forget_exact", "preservation",
])
def test_a_figure_that_is_no_number_is_no_measurement(name: str) -> None:
    """Every comparison with NaN is false: as a bound that is not exceeded it would pass."""
    assert shortfalls(replace(FORGOTTEN, **{name: math.nan}), Settings())


def test_the_letter_says_what_was_measured_without_options(
    registry: Registry, add: Adder
) -> None:
    number = add().number
    registry.validate(number, author=AUTHOR, identity="seen")
    claim = Claim(registry=registry, numbers=[number], token="t")
    claim.take("run")
    claim.settle({number: replace(UNRANKED, run_unnamed_records=40, run_unnamed_exact=0.9)})
    assert registry.request(number).state is State.VERIFIED
    text = " ".join(letter(registry, number).paragraphs)
    assert "word for word to 0.0 % of 2 questions" in text
    assert "Asked without that name, it gave the stored answer to 90.0 % of 40 questions" in text
