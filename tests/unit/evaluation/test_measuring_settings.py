"""What the evaluation of a run asks for, and what it must leave out."""

from __future__ import annotations

import pytest

from medunlearn_client.evaluation import EvaluationInputs
from medunlearn_client.evaluation.relearning import RelearningSettings, split_forget_set
from medunlearn_client.records import Record
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import Plan
from medunlearn_simulation.measuring import evaluation_settings


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
