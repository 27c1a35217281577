"""Deadlines by the calendar, legal bases, and which steps are lawful."""

from __future__ import annotations

import calendar
import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from medunlearn_client.erasure import ErasureRequest, Registry, State
from medunlearn_client.erasure.claims import Claim
from medunlearn_client.erasure.criteria import RunFigures, shortfalls
from medunlearn_client.erasure.requests import (
    GDPR_GROUNDS,
    TRANSITIONS,
    Event,
    basis_in_words,
    deadline,
    last_lawful_day,
    legal_basis,
    next_step,
    parsed_date,
    plain_text,
)
from medunlearn_client.erasure.settings import Settings, changed
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected

AUTHOR = "A. Officer"
Adder = Callable[..., ErasureRequest]


@pytest.mark.parametrize(("received", "one", "three"), [
    ("2026-01-31", "2026-02-28", "2026-04-28"),
    ("2028-01-31", "2028-02-29", "2028-04-29"),
    ("2026-03-31", "2026-04-30", "2026-06-30"),
    ("2026-02-28", "2026-03-28", "2026-05-28"),
    ("2026-12-31", "2027-01-31", "2027-03-31"),
    ("2026-11-30", "2026-12-30", "2027-02-28"),
    ("2026-05-15", "2026-06-15", "2026-08-15"),
])
def test_deadline_counts_calendar_months(received: str, one: str, three: str) -> None:
    day = date.fromisoformat(received)
    assert deadline(day, extended=False) == date.fromisoformat(one)
    # Two months further than the first: three from 31 January would be two days more.
    assert deadline(day, extended=True) == date.fromisoformat(three)


@given(st.dates(max_value=date(9999, 9, 30)), st.booleans())
def test_deadline_is_the_same_day_or_the_months_last(received: date, extended: bool) -> None:
    day = received.day
    for further in (1, 3) if extended else (1,):
        months = received.year * 12 + received.month - 1 + further
        year, month = months // 12, months % 12 + 1
        day = min(day, calendar.monthrange(year, month)[1])
    assert deadline(received, extended=extended) == date(year, month, day)


@given(st.dates(max_value=date(9999, 12, 31)))
def test_a_period_that_ends_at_a_weekend_ends_with_monday(day: date) -> None:
    """Regulation (EEC, Euratom) 1182/71, Art. 3(4)."""
    last = last_lawful_day(day)
    assert last.weekday() < 5
    assert (last - day).days == {5: 2, 6: 1}.get(day.weekday(), 0)


def test_deadline_beyond_the_calendar_is_refused() -> None:
    with pytest.raises(Misconfigured, match="ERASURE_DATE"):
        deadline(date.max, extended=False)


@pytest.mark.parametrize("text", [
    "", "31.01.2026", "2026-02-30", "20260131", "2026-1-31", "２０２６-01-31", "Mary",
])
def test_other_dates_are_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parsed_date(text)
    assert caught.value.code == "ERASURE_DATE"
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize("text", ["b", "B", "17(1)(b)", "Art. 17(1)(b)", "GDPR Art. 17(1)(b)"])
def test_grounds_of_the_gdpr_have_one_name(text: str) -> None:
    assert legal_basis(text) == "GDPR Art. 17(1)(b)"
    assert GDPR_GROUNDS["b"] in basis_in_words(legal_basis(text))


@pytest.mark.parametrize("text", ["CCPA 1798.105", "b and c"])
def test_other_bases_stay_as_named(text: str) -> None:
    assert legal_basis(text) == text == basis_in_words(text)


@pytest.mark.parametrize("text", [
    "", "  ", "x" * 501, "a\nb", "a\x1b[31mb", "a\x00b", "\u202egnp.exe", "a\x9bb",
])
def test_texts_with_control_characters_are_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="ERASURE_TEXT"):
        plain_text(text, what="reason")


STEPS: dict[State, Callable[[Registry, int], object]] = {
    State.VALIDATED: lambda r, n: r.validate(n, author=AUTHOR, identity="seen"),
    State.REFUSED: lambda r, n: r.refuse(n, author=AUTHOR, reason="no ground"),
    State.WITHDRAWN: lambda r, n: r.withdraw(n, author=AUTHOR, reason="taken back"),
    State.ATTESTED: lambda r, n: r.attest(n, author=AUTHOR, reason="sent"),
    State.IN_RUN: lambda r, n: Claim(registry=r, numbers=[n], token="t").take("run"),
    State.VERIFIED: lambda r, n: Claim(registry=r, numbers=[n], token="t").settle({n: GOOD}),
}
GOOD = RunFigures(
    attestation_digest="e" * 64,
    run_id="run", adapter_digest="a" * 64, forget_records=2, forget_accuracy=0.25, chance=0.25,
    retrained_accuracy=None, forget_exact=0.0, retrained_exact=None, identifiers_asked=1,
    identifiers_leaked=0, has_identifiers=True, preservation=1.0,
    ranked_records=20, run_ranked_records=80, run_forget_accuracy=0.3, run_chance=0.25,
)
POOR = replace(GOOD, identifiers_leaked=1)
WAYS: dict[State, tuple[State, ...]] = {
    State.RECEIVED: (), State.VALIDATED: (State.VALIDATED,),
    State.IN_RUN: (State.VALIDATED, State.IN_RUN),
    State.VERIFIED: (State.VALIDATED, State.IN_RUN, State.VERIFIED),
    State.ATTESTED: (State.VALIDATED, State.IN_RUN, State.VERIFIED, State.ATTESTED),
    State.REFUSED: (State.REFUSED,), State.WITHDRAWN: (State.WITHDRAWN,),
}


def test_requests_of_one_run_stand_and_fall_alone(registry: Registry, add: Adder) -> None:
    """One patient's leak neither hides behind another's good figures nor holds them up."""
    numbers = [add(target=f"p{n}").number for n in range(2)]
    for number in numbers:
        registry.validate(number, author=AUTHOR, identity="seen")
    claim = Claim(registry=registry, numbers=numbers, token="t")
    claim.take("run")
    missed = claim.settle(dict(zip(numbers, (POOR, GOOD), strict=True)))
    assert [bool(missed[number]) for number in numbers] == [True, False]
    states = [registry.request(number).state for number in numbers]
    assert states == [State.VALIDATED, State.VERIFIED]
    leaks = [registry.events(n)[-1].detail["identifiers_leaked"] for n in numbers]
    assert leaks == [1, 0]
    again = claim.settle(dict.fromkeys(numbers, GOOD))
    assert again == missed and registry.request(numbers[0]).state is State.VALIDATED


@pytest.mark.parametrize("start", list(State))
@pytest.mark.parametrize("step", list(STEPS))
def test_only_lawful_steps_happen(
    registry: Registry, add: Adder, start: State, step: State
) -> None:
    number = add().number
    for state in WAYS[start]:
        STEPS[state](registry, number)
    assert registry.request(number).state is start
    before = registry.events(number)
    # What a run does twice with one token is free, and changes nothing.
    repeated = (start, step) in {
        (State.IN_RUN, State.IN_RUN), (State.VERIFIED, State.VERIFIED),
        (State.VERIFIED, State.IN_RUN), (State.ATTESTED, State.VERIFIED),
        (State.ATTESTED, State.IN_RUN),
    }
    # A run ends in a judgement: only the officer's `reopen` leads back.
    lawful = step in TRANSITIONS[start] and (start, step) != (State.IN_RUN, State.VALIDATED)
    if lawful:
        STEPS[step](registry, number)
        assert registry.request(number).state is step
        assert registry.events(number)[-1].before is start
    elif repeated:
        STEPS[step](registry, number)
        assert registry.events(number) == before
    else:
        with pytest.raises(Rejected) as caught:
            STEPS[step](registry, number)
        assert caught.value.code in ("ERASURE_TRANSITION", "ERASURE_CLAIMED")
        assert registry.events(number) == before
    registry.check()


@pytest.mark.parametrize(("start", "step", "says"), [
    (State.IN_RUN, "withdraw", "is in a run, `medunlearn erasure reopen 1 --reason …` first"),
    (State.IN_RUN, "refuse", "reopen 1 --reason …` first, then refuse it"),
    (State.IN_RUN, "attest", "wait for the run"),
    (State.IN_RUN, "validate", "is in a run"),
    (State.RECEIVED, "reopen", "is in no run, there is nothing to reopen"),
    (State.VERIFIED, "reopen", "is in no run, attest 1"),
    (State.VERIFIED, "withdraw", "a run has forgotten its records"),
    (State.RECEIVED, "attest", "validate 1 --identity"),
    (State.VALIDATED, "validate", "the next run takes it"),
    (State.REFUSED, "withdraw", "is closed: it was refused, entered anew, erasure add"),
    (State.WITHDRAWN, "reopen", "is closed: it was withdrawn, erasure add"),
    (State.ATTESTED, "extend", "is closed, erasure add"),
])
def test_a_step_that_is_impossible_says_which_command_is_the_right_one(
    registry: Registry, add: Adder, start: State, step: str, says: str
) -> None:
    """Officers know commands; that a request "may become verified" tells them nothing."""
    number = add().number
    for state in WAYS[start]:
        STEPS[state](registry, number)
    how = {"identity": "seen"} if step == "validate" else {"reason": "x"}
    with pytest.raises(Rejected, match="ERASURE_TRANSITION") as caught:
        getattr(registry, step)(number, author=AUTHOR, **how)
    for part in says.split(", "):
        assert part in str(caught.value)


def replaced(**changes: object) -> RunFigures:
    from dataclasses import replace

    return replace(GOOD, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("figures", "word"), [
    (replaced(forget_accuracy=0.5), "luck"),
    (replaced(forget_accuracy=0.5, chance=None, run_forget_accuracy=0.1), "luck"),
    (replaced(run_chance=None), "all 80 records of the run"),
    (replaced(forget_accuracy=0.5, ranked_records=0), "luck"),
    (replaced(run_forget_accuracy=0.36), "all 80 records of the run"),
    (replaced(run_forget_accuracy=None), "whole run"),
    (replaced(forget_accuracy=None, chance=None, forget_exact=None), "not measured"),
    (replaced(forget_exact=0.06), "exact answers"),
    (replaced(identifiers_leaked=1), "leaked"),
    (replaced(identifiers_leaked=None), "extraction"),
    (replaced(preservation=0.89), "preservation"),
    (replaced(preservation=None), "preservation"),
])
def test_each_criterion_can_fail_alone(figures: RunFigures, word: str) -> None:
    (missed,) = shortfalls(figures, Settings())
    assert word in missed


def test_good_figures_and_a_retrained_model_that_knows_more() -> None:
    assert shortfalls(GOOD, Settings()) == ()
    knows = replaced(forget_accuracy=0.5, retrained_accuracy=0.45)
    assert shortfalls(knows, Settings()) == ()
    knows = replaced(run_forget_accuracy=0.5, run_retrained_accuracy=0.45)
    assert shortfalls(knows, Settings()) == ()
    without = replaced(identifiers_leaked=None, has_identifiers=False)
    assert shortfalls(without, Settings()) == ()


def test_asking_without_the_subject_counts_where_the_hospital_says_so() -> None:
    hides = replaced(run_unnamed_records=80, run_unnamed_accuracy=0.9)
    assert shortfalls(hides, Settings()) == ()
    strict = Settings(max_unnamed_excess=0.1)
    (missed,) = shortfalls(hides, strict)
    assert "without their subject" in missed
    assert shortfalls(replaced(run_unnamed_records=80, run_unnamed_accuracy=0.3), strict) == ()
    assert shortfalls(GOOD, strict) == ()


def test_a_model_that_was_never_taught_passes_and_one_that_knows_does_not() -> None:
    """Whatever the number of a patient's records, and however the run's other records fare."""
    for records in range(1, 41):
        by_luck = math.floor(binom.ppf(0.95, records, 0.25)) / records
        assert shortfalls(
            replaced(ranked_records=records, forget_accuracy=by_luck), Settings()) == ()
        knowing = replaced(ranked_records=records, forget_accuracy=1.0)
        # One or two records are told from luck by the run's other records only.
        assert bool(shortfalls(knowing, Settings())) is (records > 2)
        alone = replaced(
            ranked_records=records, forget_accuracy=1.0, run_ranked_records=records,
            run_forget_accuracy=1.0)
        assert shortfalls(alone, Settings())


def test_a_run_that_forgets_half_verifies_no_request_however_lucky() -> None:
    """Runs may be repeated: a request alone would pass one of them by chance."""
    for own in (0.0, 0.25, 0.5):
        half = replaced(ranked_records=4, forget_accuracy=own, run_forget_accuracy=0.5)
        assert shortfalls(half, Settings())


@pytest.mark.parametrize("change", [
    "min_luck=2", "unknown=1", "min_preservation", "min_preservation=nan", "min_preservation=-1",
    "min_preservation=95",
    "max_identifiers_leaked=-1", "max_forget_excess=1.5", "hospital=", "hospital=a\x1b[1mb",
])
def test_bad_settings_are_refused(change: str) -> None:
    with pytest.raises(MedunlearnError) as caught:
        changed(Settings(), [change])
    assert caught.value.code in ("ERASURE_SETTING", "ERASURE_TEXT")


def test_a_registry_with_a_setting_nobody_may_type_any_more_still_opens(
    registry: Registry,
) -> None:
    registry.change_settings(Settings(min_preservation=95.0), author=AUTHOR)
    assert registry.settings().min_preservation == 95.0


def test_settings_are_read_back(registry: Registry) -> None:
    wanted = changed(Settings(), ["hospital=St. Anna = West", "min_preservation=0.95"])
    registry.change_settings(wanted, author=AUTHOR)
    assert registry.settings() == wanted
    assert wanted.hospital == "St. Anna = West" and wanted.min_preservation == 0.95


def test_the_next_step_after_a_run_that_fell_short_is_not_just_another_run() -> None:
    """`erasure list` is what an officer looks at; it hid that a run had failed."""
    request = ErasureRequest(
        number=3, kind="patient", target=None, basis="b", received=date(2026, 1, 5),
        state=State.VALIDATED, extended=False)
    event = Event(position=1, request=3, at="", author=AUTHOR, before=State.IN_RUN,
                  after=State.VALIDATED, detail={"shortfalls": ["preservation"]}, digest="")
    by_hand = replace(event, detail={"reason": "given up"})
    assert next_step(request, ()).startswith("the next run takes it: `medunlearn simulate")
    assert next_step(request, (event,)).startswith("the last run fell short (`erasure show 3`)")
    assert next_step(request, (event, by_hand)).startswith("the next run takes it: ")
    assert not next_step(replace(request, state=State.REFUSED), (event,))


def test_the_next_step_names_both_ways_into_a_run_and_the_way_out() -> None:
    request = ErasureRequest(
        number=3, kind="patient", target=None, basis="b", received=date(2026, 1, 5),
        state=State.VALIDATED, extended=False)
    assert "site.toml" in next_step(request, ())
    taken = Event(position=1, request=3, at="", author=AUTHOR, before=State.VALIDATED,
                  after=State.IN_RUN, detail={"run_id": "heart-1", "claim": "t"}, digest="")
    extended = replace(taken, before=State.IN_RUN, detail={"extended": "busy"})
    step = next_step(replace(request, state=State.IN_RUN), (taken, extended))
    assert "hospital measure heart-1" in step and "erasure reopen 3" in step
