"""Runs that remember, and figures that are missing: none of them may mark a request verified."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

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
