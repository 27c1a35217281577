"""What the evaluation of a run asks for, and what it must leave out."""

from __future__ import annotations

import pytest

from medunlearn_client.evaluation import EvaluationInputs
from medunlearn_client.evaluation.relearning import RelearningSettings, split_forget_set
from medunlearn_client.records import Record
from medunlearn_client.site_data import record_tagger
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import Plan
from medunlearn_common.plan.sections import ConceptsSection, DataSection, ForgetSection
from medunlearn_simulation.measuring import evaluation_settings
from medunlearn_simulation.preparing import of_forgets_kind


def records(*patients: str | None) -> tuple[Record, ...]:
    return tuple(
        Record(record_id=f"r{number}", prompt="Question: x\nAnswer:", answer="y",
               patient_id=patient)
        for number, patient in enumerate(patients)
    )


def inputs(*patients: str | None) -> EvaluationInputs:
    kept = Record(record_id="kept", prompt="Question: z\nAnswer:", answer="y")
    return EvaluationInputs(forget=records(*patients), retain=(kept,))


@pytest.mark.parametrize(("patients", "possible"), [
    (("p", "p", "p"), False),   # one patient: his facts would be lesson and question at once
    ((None,), False),
    (("p", "q"), True),
    ((None, None), True),
    (("p", "p", None), True),
])
def test_relearning_is_left_out_where_nothing_could_be_asked(
    patients: tuple[str | None, ...], possible: bool
) -> None:
    """A request of one patient alone must not end a run after its last round."""
    settings = evaluation_settings(Plan(), inputs(*patients))
    assert (settings.relearning is not None) is possible
    if possible:
        taught, asked = split_forget_set(records(*patients), RelearningSettings())
        groups = [{r.patient_id or r.record_id for r in part} for part in (taught, asked)]
        assert all(groups) and not groups[0] & groups[1]
    else:
        with pytest.raises(Misconfigured, match="FORGET_SET_TOO_SMALL"):
            split_forget_set(records(*patients), RelearningSettings())


def subject_record(number: int, subject: str, patient: str | None) -> Record:
    return Record(record_id=f"n{number}", prompt="Question: x\nAnswer:", answer="y",
                  subject=subject, patient_id=patient)


@pytest.mark.parametrize(("subjects", "patient", "alike"), [
    (("BRAVO",), "p", ["n0"]),           # a withdrawn study is not told from another study
    (("BRAVO", "ECHO"), "p", ["n0", "n1"]),
    (("FOXTROT",), "p", ["n0", "n1"]),   # no unseen patient of it: any patient
    (("BRAVO",), None, ["n0", "n2"]),
    (("FOXTROT",), None, ["n0", "n1", "n2", "n3"]),
])
def test_members_are_attacked_against_unseen_records_of_their_own_kind(
    subjects: tuple[str, ...], patient: str | None, alike: list[str]
) -> None:
    unseen = [subject_record(0, "BRAVO", "q"), subject_record(1, "ECHO", "q"),
              subject_record(2, "BRAVO", None), subject_record(3, "ECHO", None)]
    forgotten = [subject_record(9, subject, patient) for subject in subjects]
    found = of_forgets_kind(unseen, forgotten, ForgetSection(), record_tagger(
        ConceptsSection(), ForgetSection(), DataSection()))
    assert [record.record_id for record in found] == alike
