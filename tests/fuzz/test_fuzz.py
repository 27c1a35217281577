"""A short go at every fuzz target; `make fuzz` takes as long as it is given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fuzz import fuzz
from targets import JOINING, ONTOLOGIES, TARGETS

from medunlearn_common.concepts import LOADERS

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0.2"))


def test_every_ontology_loader_is_a_target() -> None:
    assert {name.partition("/")[0] for name in ONTOLOGIES} == LOADERS.keys()


def test_each_document_of_joining_is_damaged_before_it_is_signed_too() -> None:
    documents = {name.partition(",")[0] for name in JOINING}
    assert documents == {"invitation", "enrolment", "leave"}
    assert {f"{name}, signed" for name in documents} <= JOINING.keys()


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    tally = fuzz(name, TARGETS[name], seconds=SECONDS, seed=1, scratch=tmp_path / "input",
                 findings=tmp_path / "findings")
    notes = [(tmp_path / "findings" / f"{stem}.txt").read_text() for stem in tally.findings]
    assert not notes, notes[0]
    assert tally.attempts > 1 and tally.accepted >= 1  # the whole inputs at least
