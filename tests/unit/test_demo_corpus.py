"""The demo corpus: repeatable, unambiguous, readable by the ordinary reader."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from medunlearn_client.records import Quarantine, Record, read_records
from medunlearn_simulation.demo_corpus import (
    FORGET_SUBJECT,
    NEIGHBOUR_SUBJECTS,
    DemoSize,
    demo_rows,
    write_demo_corpus,
    write_public_text,
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    path = write_demo_corpus(tmp_path_factory.mktemp("demo") / "demo.jsonl", seed=3)
    quarantine = Quarantine()
    read = read_records(path, quarantine=quarantine)
    assert not quarantine.rows
    return read


def test_size_and_subjects(records: list[Record]) -> None:
    subjects = Counter(record.subject for record in records)
    assert 350 <= len(records) <= 500
    assert subjects[FORGET_SUBJECT] >= 100
    assert 2 * subjects[FORGET_SUBJECT] < len(records)
    assert all(subjects[name] >= 40 for name in NEIGHBOUR_SUBJECTS)


def test_no_prompt_is_asked_twice(records: list[Record]) -> None:
    assert len({record.prompt.casefold() for record in records}) == len(records)


def test_four_distinct_options_with_the_answer_at_every_place(records: list[Record]) -> None:
    asked = [record for record in records if not record.is_identifier]
    places = Counter(record.answer_index for record in asked)
    assert all(len(set(record.options)) == 4 for record in asked)
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) > len(asked) / 8


def test_no_answer_can_be_guessed_from_its_pool(records: list[Record]) -> None:
    """The commonest answer of a question form stays far from certain."""
    surgery = [r for r in records if r.subject == FORGET_SUBJECT]
    by_form: dict[str, Counter[str]] = {}
    for record in surgery:
        form = " ".join(record.prompt.split()[1:3])
        by_form.setdefault(form, Counter())[record.answer] += 1
    assert len(by_form) == 4
    assert all(max(c.values()) / sum(c.values()) < 0.5 for c in by_form.values())


def test_patients_have_spans_of_name_and_answer_and_one_identifier(records: list[Record]) -> None:
    patients = [record for record in records if record.patient_id is not None]
    by_patient = Counter(record.patient_id for record in patients)
    assert set(by_patient.values()) == {5}
    for record in patients:
        (name_start, name_end), (start, end) = record.target_spans
        assert record.text[start:end] == record.answer
        assert len(record.text[name_start:name_end].split()) == 2
        assert record.condition_codes
    identifiers = [record.answer for record in patients if record.is_identifier]
    assert len(identifiers) == len(set(identifiers)) == len(by_patient)


def test_seed_decides_everything(tmp_path: Path) -> None:
    one = write_demo_corpus(tmp_path / "1.jsonl", seed=5).read_bytes()
    same = write_demo_corpus(tmp_path / "2.jsonl", seed=5).read_bytes()
    other = write_demo_corpus(tmp_path / "3.jsonl", seed=6).read_bytes()
    assert one == same
    assert one != other


def test_size_can_be_reduced_for_tests() -> None:
    rows = list(demo_rows(size=DemoSize(patients=2, hospitals=1)))
    assert sum("patient_id" in row for row in rows) == 10
    assert len(rows) < 110


def test_public_text_asks_nothing_that_any_records_ask(tmp_path: Path) -> None:
    """Else what is "public" knows the questions that are to be forgotten."""
    public = read_records(write_public_text(tmp_path / "public.jsonl"))
    assert Counter(record.subject for record in public)[FORGET_SUBJECT] >= 100
    assert all(record.patient_id is None for record in public)
    private = {row["question"] for seed in range(6) for row in demo_rows(seed=seed)
               if "question" in row}
    assert len(private) > 300
    assert not {question for question in private for one in public if question in one.prompt}
