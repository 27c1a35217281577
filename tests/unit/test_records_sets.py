"""Forget sets, sites and hold-outs: disjoint, whole, seeded, and refused when they cannot be."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medunlearn_client.records import (
    ForgetRequest,
    Record,
    assign_sites,
    join,
    require_whole_patients,
    retain_all,
    select,
    split_nonmembers,
)
from medunlearn_common.errors import Misconfigured


def record(number: int, **changes: Any) -> Record:
    base: dict[str, Any] = {
        "record_id": f"r{number}",
        "prompt": f"Question: What is {number}?\nAnswer:",
        "answer": f"answer {number}",
        "patient_id": f"p{number // 3}",
        "subject": "Surgery" if number % 4 == 0 else "Anatomy",
    }
    return Record(**{**base, **changes})


RECORDS = [record(number) for number in range(60)]


class EvenNumbers:
    """A matcher with an obvious rule: the question is about an even number."""

    def record_matches_forget_root(self, record: Record) -> bool:
        return int(record.text.split("What is ")[1].split("?")[0]) % 2 == 0


def ids(records: Any) -> list[str]:
    return [item.record_id for item in records]


def refused(code: str) -> Any:
    return pytest.raises(Misconfigured, match=rf"\[?'?{code}")


def test_by_record_patient_subject_and_concept() -> None:
    by_record = select(RECORDS, ForgetRequest(record_ids=("r5", "r2",)))
    assert ids(by_record.forget) == ["r2", "r5"]
    assert len(by_record.retain) == 58
    by_patient = select(RECORDS, ForgetRequest(patient_ids=("p1",)))
    assert ids(by_patient.forget) == ["r3", "r4", "r5"]
    by_subject = select(RECORDS, ForgetRequest(subjects=("surgery",)))
    assert ids(by_subject.forget) == [f"r{n}" for n in range(0, 60, 4)]
    by_concept = select(RECORDS, ForgetRequest(by_concept=True), EvenNumbers())
    assert ids(by_concept.forget) == [f"r{n}" for n in range(0, 60, 2)]


def test_criteria_are_united() -> None:
    request = ForgetRequest(record_ids=("r9",), patient_ids=("p0",))
    split = select(RECORDS, request)
    assert ids(split.forget) == ["r0", "r1", "r2", "r9"]
    assert sorted(ids(split.forget) + ids(split.retain)) == sorted(ids(RECORDS))


def test_patient_fraction_is_drawn_from_the_seed_alone() -> None:
    def drawn(seed: int, records: list[Record]) -> set[str | None]:
        split = select(records, ForgetRequest(patient_fraction=0.1, seed=seed))
        require_whole_patients(split)
        return {item.patient_id for item in split.forget}

    assert len(drawn(1, RECORDS)) == 2
    assert drawn(1, RECORDS) == drawn(1, RECORDS[::-1])
    assert len({frozenset(drawn(seed, RECORDS)) for seed in range(8)}) > 1


def test_patients_to_keep_are_not_drawn() -> None:
    keep = tuple(f"p{n}" for n in range(18))
    split = select(RECORDS, ForgetRequest(patient_fraction=0.1, seed=3, keep_patient_ids=keep))
    assert {item.patient_id for item in split.forget} == {"p18", "p19"}


def test_what_is_left_out_is_in_neither_set_and_forgetting_comes_first() -> None:
    def is_left_out(item: Record) -> bool:
        return item.record_id in {"r4", "r9", "gone"} or item.patient_id == "p2"

    split = select(RECORDS, ForgetRequest(patient_ids=("p1",)), is_left_out=is_left_out)
    assert ids(split.forget) == ["r3", "r4", "r5"]
    assert ids(split.left_out) == ["r6", "r7", "r8", "r9"]
    assert ids(split.retain) == [f"r{n}" for n in range(60) if n not in range(3, 10)]
    copy = record(100, prompt=RECORDS[4].prompt, answer=RECORDS[4].answer, patient_id="p2")
    copied = select([*RECORDS, copy], ForgetRequest(patient_ids=("p1",)), is_left_out=is_left_out)
    assert copied.repeated_ids == ()  # teaches nothing
    everybody = retain_all([*RECORDS, record(99, patient_id=None)], is_left_out)
    assert ids(everybody.left_out) == ["r4", "r6", "r7", "r8", "r9"]
    assert len(everybody.retain) == 56 and not everybody.forget


def test_too_little_to_retain_is_explained_by_what_is_left_out() -> None:
    with refused("FORGET_LARGER_THAN_RETAIN") as caught:
        select(RECORDS, ForgetRequest(patient_ids=("p1",)), is_left_out=lambda _: True)
    assert "only 0 retained; 57 are left out" in caught.value.message


def test_text_that_repeats_what_is_left_out_is_reported_as_in_the_run_that_forgot_it() -> None:
    copy = record(100, prompt=RECORDS[2].prompt, answer=RECORDS[2].answer.upper())

    def is_left_out(item: Record) -> bool:
        return item.record_id == "r2"

    later = select([*RECORDS, copy], ForgetRequest(patient_ids=("p1",)), is_left_out=is_left_out)
    assert later.repeated_ids == ("r100",)
    assert retain_all([*RECORDS, copy], is_left_out).repeated_ids == ("r100",)
    assert retain_all([*RECORDS, copy]).repeated_ids == ()


def test_repeated_text_is_reported() -> None:
    copy = record(100, prompt=RECORDS[2].prompt, answer=RECORDS[2].answer.upper())
    split = select([*RECORDS, copy], ForgetRequest(record_ids=("r2",)))
    assert split.repeated_ids == ("r100",)


@pytest.mark.parametrize(
    ("request_fields", "named"),
    [
        ({"record_ids": ("r1", "x777")}, "records to forget: 1 of the 2 that are named, number 2"),
        ({"patient_ids": ("x777",)}, "patients to forget: 1 of the 1"),
        ({"subjects": ("surgery", "x777")}, "subjects to forget: 1 of the 2"),
        ({"record_ids": ("r1",), "keep_patient_ids": ("x777",)}, "patients to keep: 1 of the 1"),
        ({"record_ids": tuple(f"x777{n}" for n in range(9))}, "number 1, 2, 3, 4, 5 and 4 more"),
    ],
)
def test_unknown_ids_are_placed_and_never_repeated(
    request_fields: dict[str, tuple[str, ...]], named: str
) -> None:
    """Whoever reads the log learns no id of a patient from a request that went wrong."""
    request = ForgetRequest(**request_fields)  # type: ignore[arg-type]
    with refused("FORGET_ID_UNKNOWN") as caught:
        select(RECORDS, request)
    assert named in caught.value.message
    assert "777" not in f"{caught.value} {caught.value.hint} {request!r}".replace(
        str(request.subjects), ""
    )


def test_record_in_both_sets_is_refused() -> None:
    request = ForgetRequest(patient_ids=("p1",), keep_record_ids=("r4", "r40",))
    with refused("RECORD_IN_BOTH_SETS") as caught:
        select(RECORDS, request)
    assert "1 record(s)" in caught.value.message and "r4" not in str(caught.value)
    with refused("RECORD_IN_BOTH_SETS"):
        select(
            RECORDS,
            ForgetRequest(subjects=("Surgery",), keep_patient_ids=("p0",)),
        )


def test_two_files_may_not_share_a_record_or_its_text() -> None:
    assert ids(join(RECORDS[:5], RECORDS[5:]).forget) == ["r0", "r1", "r2", "r3", "r4"]
    with refused("RECORD_IN_BOTH_SETS"):
        join(RECORDS[:5], RECORDS[4:])
    with refused("RECORD_IN_BOTH_SETS"):
        join([record(100, prompt=RECORDS[9].prompt, answer=RECORDS[9].answer)], RECORDS)


def test_sizes_are_checked() -> None:
    with refused("FORGET_LARGER_THAN_RETAIN"):
        select(RECORDS, ForgetRequest(record_ids=tuple(ids(RECORDS[:31]))))
    with refused("FORGET_SET_EMPTY"):
        odd = [item for item in RECORDS if int(item.record_id[1:]) % 2]
        select(odd, ForgetRequest(by_concept=True), EvenNumbers())
    with refused("FORGET_SET_EMPTY"):
        join([], RECORDS)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "FORGET_REQUEST_EMPTY"),
        ({"patient_fraction": 0.0}, "FORGET_FRACTION"),
        ({"patient_fraction": 1.0}, "FORGET_FRACTION"),
        ({"patient_fraction": float("nan")}, "FORGET_FRACTION"),
        ({"by_concept": True, "seed": -1}, "SEED_NEGATIVE"),
    ],
)
def test_bad_request_is_refused(fields: dict[str, Any], code: str) -> None:
    with refused(code):
        ForgetRequest(**fields)


def test_concepts_need_a_tagger() -> None:
    with refused("FORGET_TAGGER_MISSING"):
        select(RECORDS, ForgetRequest(by_concept=True))


def test_cut_patient_is_refused_for_the_patient_unit() -> None:
    require_whole_patients(select(RECORDS, ForgetRequest(patient_ids=("p4",))))
    with refused("PATIENT_IN_BOTH_SETS"):
        require_whole_patients(select(RECORDS, ForgetRequest(record_ids=("r4",))))
    nameless = [*RECORDS, record(100, patient_id=None)]
    with refused("PATIENT_ID_MISSING"):
        require_whole_patients(select(nameless, ForgetRequest(patient_ids=("p4",))))


@settings(max_examples=60)
@given(
    n_records=st.integers(1, 60),
    n_sites=st.integers(1, 12),
    seed=st.integers(0, 2**64),
    concentration=st.sampled_from([0.01, 0.5, 1.0, 100.0]),
    by_patient=st.booleans(),
)
def test_partition_is_complete_atomic_and_order_free(
    n_records: int, n_sites: int, seed: int, concentration: float, by_patient: bool
) -> None:
    records = [record(n, **({} if by_patient else {"patient_id": None})) for n in range(n_records)]
    sites = assign_sites(records, n_sites=n_sites, seed=seed, concentration=concentration)
    assert list(sites) == list(range(n_sites))
    assert sorted(ids([item for held in sites.values() for item in held])) == sorted(ids(records))
    home = {item.record_id: site for site, held in sites.items() for item in held}
    if by_patient:
        assert len({(item.patient_id, home[item.record_id]) for item in records}) == len(
            {item.patient_id for item in records}
        )
    groups = len({item.patient_id for item in records}) if by_patient else n_records
    if groups >= n_sites:
        assert all(sites.values())
    reordered = assign_sites(records[::-1], n_sites=n_sites, seed=seed, concentration=concentration)
    assert {item.record_id: s for s, held in reordered.items() for item in held} == home
    for held in sites.values():
        places = [records.index(item) for item in held]
        assert places == sorted(places)


def test_partition_is_uneven_by_subject_and_depends_on_the_seed() -> None:
    many = [record(n, patient_id=None) for n in range(400)]

    def surgical(seed: int, concentration: float) -> list[int]:
        sites = assign_sites(many, n_sites=5, seed=seed, concentration=concentration)
        return [sum(item.subject == "Surgery" for item in sites[site]) for site in range(5)]

    assert surgical(0, 0.3) != surgical(1, 0.3)
    assert max(surgical(0, 1e6)) - min(surgical(0, 1e6)) <= 1
    assert any(0 in surgical(seed, 0.1) for seed in range(5))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"n_sites": 0}, "SITES_INVALID"),
        ({"concentration": 0.0}, "CONCENTRATION_INVALID"),
        ({"concentration": float("nan")}, "CONCENTRATION_INVALID"),
        ({"seed": -1}, "SEED_NEGATIVE"),
    ],
)
def test_bad_partition_is_refused(fields: dict[str, Any], code: str) -> None:
    with refused(code):
        assign_sites(RECORDS, **{"n_sites": 3, "seed": 0, **fields})


def test_nonmembers_are_whole_patients_or_single_records() -> None:
    members, held = split_nonmembers(RECORDS, fraction=0.1, seed=4, by_patient=True)
    assert Counter(item.patient_id for item in held).most_common() == [
        (patient, 3) for patient in dict.fromkeys(item.patient_id for item in held)
    ]
    assert len(held) == 6
    assert not {item.patient_id for item in members} & {item.patient_id for item in held}
    members, held = split_nonmembers(RECORDS, fraction=0.1, seed=4, by_patient=False)
    assert len(held) == 6 and sorted(ids(members) + ids(held)) == sorted(ids(RECORDS))
    again = split_nonmembers(RECORDS[::-1], fraction=0.1, seed=4, by_patient=False)
    assert set(ids(again[1])) == set(ids(held))
    other = split_nonmembers(RECORDS, fraction=0.1, seed=5, by_patient=False)
    assert set(ids(other[1])) != set(ids(held))


def test_bad_hold_out_is_refused() -> None:
    for fraction in (0.0, 1.0, float("nan")):
        with refused("HOLDOUT_FRACTION"):
            split_nonmembers(RECORDS, fraction=fraction, seed=0, by_patient=True)
    with refused("HOLDOUT_EMPTY"):
        split_nonmembers(RECORDS[:1], fraction=0.5, seed=0, by_patient=False)
