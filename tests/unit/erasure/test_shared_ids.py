"""Rows of a hospital that share an id are so many records, also where a run is judged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medunlearn_client.erasure import NewRequest, Registry, RunFigures, claim_on, forget_set
from medunlearn_client.erasure.criteria import shortfalls
from medunlearn_client.erasure.documents import letter
from medunlearn_client.erasure.finding import Wanted, find_records
from medunlearn_client.erasure.run_figures import figures_by_request
from medunlearn_client.erasure.run_records import requested_records, require_whole
from medunlearn_client.erasure.settings import Settings
from medunlearn_client.evaluation import (
    EvaluationInputs,
    EvaluationSettings,
    evaluate,
    evaluate_models,
)
from medunlearn_client.evaluation.record_scores import RecordScores
from medunlearn_client.evaluation.scoring import AnswerScore
from medunlearn_client.records import ReadOptions, Record
from medunlearn_client.site_data import load_hospital_records
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ConceptsSection, DataSection

AUTHOR = "A. Officer"
EVERY = range(10)
KEPT = [(f"P{number}", f"P{number}", 0) for number in range(60)]
Row = tuple[str, str, int]
"""Id, patient and number of the fact."""
Judge = Callable[..., dict[str, RunFigures]]


def fact(patient: str, number: int) -> dict[str, object]:
    answer = f"{patient}-{number}"
    return {"question": f"Which finding {number} had {patient}?", "answer": answer,
            "options": [answer, "x", "y", "z"], "patient_id": patient}


def said(record: Record, *, known: bool) -> RecordScores:
    """Its own answer first where it is known, and last elsewhere; no answer is written out."""
    own = 0.0 if known else -9.0
    return RecordScores(
        record_id=record.record_id, subject=None, patient_id=record.patient_id,
        answer=AnswerScore(
            log_probs=np.array([own]), z_scores=np.zeros(1), greedy=np.array([False]),
            offsets=((0, 1),), n_prompt=0, has_eos=False,
        ),
        option_log_probs=tuple(own if option == record.answer else -1.0
                               for option in record.options),
        answer_index=record.answer_index,
    )


@pytest.fixture
def judged(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Judge:
    """What a hospital's run tells the registry of each patient who asks."""

    def judge(
        rows: Sequence[Row], *, asking: Sequence[str], remembered: dict[str, range],
        files: int = 1,
    ) -> dict[str, RunFigures]:
        for name in range(files):
            (tmp_path / f"{name}.jsonl").write_text("".join(
                json.dumps({"id": key} | fact(patient, number)) + "\n"
                for key, patient, number in rows[name::files]), encoding="utf-8")
        data = DataSection(files=tuple(str(path) for path in sorted(tmp_path.glob("*.jsonl"))))
        for patient in asking:
            found = find_records(
                Wanted(kind="patient", patient_id=patient), [Path(name) for name in data.files],
                options=ReadOptions(for_sums=True))
            number = registry.add(NewRequest(
                kind="patient", target=found.target, matches=found.matches, basis="b",
                received=registry.today), author=AUTHOR).number
            registry.validate(number, author=AUTHOR, identity="seen")
        claim, concepts = claim_on(registry), ConceptsSection()
        records = load_hospital_records(
            data=data, forget=forget_set(registry, claim.numbers), concepts=concepts,
            unit="patient")
        requested = requested_records(claim, records.forget, concepts=concepts, data=data)
        require_whole(claim, requested, {r.record_id for r in (*records.forget, *records.retain)},
                      forget=records.forget)

        def score(model: str, asked: Sequence[Record], **_: Any) -> tuple[RecordScores, ...]:
            """All is known before; afterwards what is kept, and what is remembered."""
            known = {fact(patient, n)["answer"] for patient, ns in remembered.items() for n in ns}
            return tuple(
                said(each, known=model == "before" or each.answer in known
                     or each.patient_id not in asking)
                for each in asked)

        monkeypatch.setattr(evaluate, "score_records", score)
        original: Any = "before"
        unlearned: Any = "after"
        report = evaluate_models(
            original=original, unlearned=unlearned, retrained=None,
            inputs=EvaluationInputs(
                forget=records.forget, retain=records.retain, requests=requested),
            settings=EvaluationSettings(relearning=None))
        found_by_number = figures_by_request(
            claim, report, run_id="heart", adapter_digest="0" * 64, forget=records.forget,
            requested=requested)
        assert all(figures.forget_accuracy_before == 1.0 for figures in found_by_number.values())
        claim.take("heart")
        claim.settle(found_by_number)
        return {asking[number - 1]: figures for number, figures in found_by_number.items()}

    return judge


def counts(figures: RunFigures) -> tuple[int, float | None, int, int]:
    return (figures.forget_records, figures.forget_accuracy, figures.ranked_records,
            figures.run_ranked_records)


def test_rows_of_a_case_that_bear_its_number_are_counted_one_by_one(judged: Judge) -> None:
    """Ten facts were all remembered, and one of four by luck is what one record has."""
    asking = ("ANN", "BOB", "CAT", "DAN")
    rows = [(patient, patient, number) for patient in asking for number in EVERY] + KEPT
    found = judged(rows, asking=asking, remembered={"ANN": EVERY})
    assert counts(found["ANN"]) == (10, 1.0, 10, 40)
    assert counts(found["BOB"]) == (10, 0.0, 10, 40)
    (own,) = shortfalls(found["ANN"], Settings())
    assert "of 10 records exceeds 0.250 by more than luck explains" in own
    assert not shortfalls(found["BOB"], Settings())


def test_patients_whose_rows_share_ids_are_judged_each_by_his_own(
    judged: Judge, registry: Registry
) -> None:
    """Two departments number their rows from 1; the one's answers spoke for the other's."""
    rows = [(str(number), patient, number) for number in EVERY for patient in ("ANN", "BOB")]
    found = judged([*rows, *KEPT], asking=("ANN", "BOB"), files=2,
                   remembered={"ANN": range(6)})
    assert counts(found["ANN"]) == (10, 0.6, 10, 20)
    assert counts(found["BOB"]) == (10, 0.0, 10, 20)
    assert shortfalls(found["ANN"], Settings()) and not shortfalls(found["BOB"], Settings())
    assert [request.state for request in registry.requests()] == ["validated", "verified"]
    assert "10 records" in " ".join(letter(registry, 2).paragraphs)


def test_who_is_kept_under_the_ids_of_one_who_is_forgotten_is_measured_too(judged: Judge) -> None:
    """The run could never be measured, and its requests stayed in it."""
    rows = [(str(number), patient, number) for number in EVERY for patient in ("ANN", "BOB")]
    found = judged([*rows, *KEPT], asking=("ANN",), files=2, remembered={})
    assert counts(found["ANN"]) == (10, 0.0, 10, 10)
    assert not shortfalls(found["ANN"], Settings())


def test_a_record_in_both_sets_is_refused_whoever_else_bears_its_id() -> None:
    one, other = (
        Record(record_id="1", prompt=f"What ails {whom}?", answer="gout") for whom in "ab")
    EvaluationInputs(forget=[one], retain=[other])
    with pytest.raises(Misconfigured, match="RECORD_IN_BOTH_SETS"):
        EvaluationInputs(forget=[one], retain=[other, one])


def test_two_people_whose_rows_share_an_id_do_not_ask_the_same(
    tmp_path: Path, registry: Registry
) -> None:
    """The second was told that her request is open already, which is the first one's."""
    people = (("Bob Roe", "1960-01-01"), ("Ann Lee", "1950-01-01"))
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(
        json.dumps({"id": "7", "question": f"What ails {name}, {day}?", "answer": "gout"}) + "\n"
        for name, day in people), encoding="utf-8")

    def add(name: str, day: str) -> int:
        found = find_records(Wanted(kind="patient", name=name, birth_date=day), [data],
                             options=ReadOptions(for_sums=True))
        assert len(found.matches) == 1
        return registry.add(NewRequest(
            kind="patient", target=found.target, matches=found.matches, basis="b",
            received=registry.today), author=AUTHOR).number

    assert [add(*one) for one in people] == [1, 2]
    with pytest.raises(Misconfigured, match="ERASURE_DUPLICATE"):
        add(*people[0])
