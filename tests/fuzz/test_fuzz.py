"""A short go at every target with blind damage; `make fuzz` is led by coverage, and longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from attempts import Attempts
from blind import fuzz
from targets import JOINING, ONTOLOGIES, TARGETS

from medunlearn_common.concepts import LOADERS

SECONDS = 60.0 / len(TARGETS)
"""A minute for all of them together."""


def test_every_ontology_loader_is_a_target() -> None:
    assert {name.partition("/")[0] for name in ONTOLOGIES} == LOADERS.keys()


def test_each_document_of_joining_is_damaged_before_it_is_signed_too() -> None:
    documents = {name.partition(",")[0] for name in JOINING}
    assert documents == {"invitation", "enrolment", "leave"}
    assert {f"{name}, signed" for name in documents} <= JOINING.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    attempts = Attempts(
        name, TARGETS[name], scratch=tmp_path / "input", findings=tmp_path / "findings")
    tally = fuzz(attempts, seconds=SECONDS, seed=1)
    notes = [(tmp_path / "findings" / f"{stem}.txt").read_text() for stem in tally.findings]
    assert not notes, notes[0]
    assert tally.attempts > 1 and tally.accepted >= 1  # the whole inputs at least
