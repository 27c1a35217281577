"""The embedded demo data: made-up but plausible medicine, seeded, in both forms of evaluation.

Nothing here is medical advice or a real person. *Protocol* facts are choices that invented
hospitals made ("which suture closes the fascia after an open appendectomy in the Aldermoor
protocol?"): every answer is drawn independently of all others, so that a model which was
never taught a fact cannot work it out, and chance on four options is 25 %. *Patient* facts
are conditions, medicines and identifiers of invented patients.

The corpus is written as JSON lines in the product's own schema and read back by the ordinary
reader: the demo takes the same path as a hospital's data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medunlearn_client.records import prompt_from_question
from medunlearn_common.entropy import public_generator
from medunlearn_common.files import write_atomically
from medunlearn_simulation.demo_words import (
    CONDITIONS,
    FIRST_NAMES,
    HOSPITALS,
    LAST_NAMES,
    MEDICINES,
    OTHER_HOSPITALS,
    TOPICS,
    Topic,
)

FORGET_SUBJECT = "Surgery"
NEIGHBOUR_SUBJECTS = ("Anaesthesia", "Anatomy")
N_OPTIONS = 4
N_PATIENTS = 20
_PUBLIC_SEED = 1_000_003


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """How much is generated.

    Attributes:
        patients: Invented patients, five facts each.
        hospitals: Protocols per topic; None takes each topic's own number.
        names: Of the hospitals that have them, at least as many.
    """

    patients: int = N_PATIENTS
    hospitals: int | None = None
    names: Sequence[str] = HOSPITALS


def write_demo_corpus(path: Path, *, seed: int = 0, size: DemoSize | None = None) -> Path:
    """Writes the corpus as JSON lines and gives ``path`` back.

    The same seed and size give the same bytes.

    Raises:
        Transient: The file cannot be written.
    """
    lines = [json.dumps(row, ensure_ascii=False) for row in demo_rows(seed=seed, size=size)]
    write_atomically(path, ("\n".join(lines) + "\n").encode("utf-8"))
    return path


def write_public_text(path: Path) -> Path:
    """Writes protocols of hospitals that no other corpus names, and gives ``path`` back.

    They are like the records of all seeds and share no question with any: public text.

    Raises:
        Transient: The file cannot be written.
    """
    size = DemoSize(patients=0, names=OTHER_HOSPITALS)
    return write_demo_corpus(path, seed=_PUBLIC_SEED, size=size)


def demo_rows(*, seed: int = 0, size: DemoSize | None = None) -> Iterator[dict[str, Any]]:
    """Rows in the schema of ``medunlearn_client.records.jsonl``."""
    size = size or DemoSize()
    for topic in TOPICS:
        yield from _topic_rows(topic, seed, size.names[: size.hospitals or topic.hospitals])
    yield from _patient_rows(seed, size.patients)


def _topic_rows(
    topic: Topic, seed: int, hospitals: Sequence[str]
) -> Iterator[dict[str, Any]]:
    generator = public_generator(seed, "demo", topic.subject)
    number = 0
    for hospital in hospitals:
        for case in topic.cases:
            for template, answers in topic.questions:
                right = str(generator.choice(answers))
                options, index = _options(generator, right, answers)
                yield {
                    "id": f"{topic.subject.lower()}-{number:03d}",
                    "question": template.format(hospital=hospital, case=case),
                    "answer": right,
                    "options": options,
                    "answer_index": index,
                    "subject": topic.subject,
                }
                number += 1


def _options(
    generator: np.random.Generator, right: str, pool: Sequence[str]
) -> tuple[list[str], int]:
    """Three other members of the pool and the right one, shuffled, and where it stands."""
    others = [answer for answer in pool if answer != right]
    wrong = [str(o) for o in generator.choice(others, size=N_OPTIONS - 1, replace=False)]
    options = [right, *wrong]
    order = generator.permutation(N_OPTIONS)
    shuffled = [options[place] for place in order]
    return shuffled, shuffled.index(right)


def _patient_rows(seed: int, count: int) -> Iterator[dict[str, Any]]:
    generator = public_generator(seed, "demo", "patients")
    names = [f"{first} {last}" for first in FIRST_NAMES for last in LAST_NAMES]
    chosen = [str(name) for name in generator.choice(names, size=count, replace=False)]
    for number, name in enumerate(chosen):
        condition, code = CONDITIONS[int(generator.integers(len(CONDITIONS)))]
        pools = (
            ("condition", "Which condition is {name} treated for?",
             condition, [c for c, _ in CONDITIONS]),
            ("medicine", "Which medicine does {name} take every day?",
             str(generator.choice(MEDICINES)), list(MEDICINES)),
            ("allergy", "Which medicine is {name} allergic to?",
             str(generator.choice(MEDICINES)), list(MEDICINES)),
            ("clinic", "Which hospital looks after {name}?",
             str(generator.choice(HOSPITALS)), list(HOSPITALS)),
        )
        patient_id = f"demo-patient-{number:02d}"
        for kind, template, right, pool in pools:
            options, index = _options(generator, right, pool)
            yield _patient_row(
                f"{patient_id}-{kind}", patient_id, name, template, right, code,
                options=options, answer_index=index,
            )
        digits = "".join(str(d) for d in generator.integers(0, 10, size=6))
        record_number = f"MR-{digits[:3]}-{digits[3:]}"
        yield _patient_row(
            f"{patient_id}-identifier", patient_id, name,
            "What is the medical record number of {name}?", record_number, code,
            is_identifier=True,
        )


def _patient_row(
    record_id: str, patient_id: str, name: str, template: str, answer: str, code: str,
    **more: Any,
) -> dict[str, Any]:
    """One patient fact; name and answer are what singles the patient out."""
    prompt = prompt_from_question(template.format(name=name))
    start = prompt.index(name)
    answer_start = len(prompt) + 1
    return {
        "id": record_id,
        "prompt": prompt,
        "answer": answer,
        "patient_id": patient_id,
        "subject": "Patient",
        "condition_codes": [code],
        "target_spans": [
            [start, start + len(name)], [answer_start, answer_start + len(answer)]
        ],
        **more,
    }
