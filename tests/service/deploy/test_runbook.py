"""The runbook speaks of codes that exist."""

from __future__ import annotations

import re
from pathlib import Path

from medunlearn_server.gates import GATES

ROOT = Path(__file__).resolve().parents[3]
CODE = re.compile(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`")
HEADING = re.compile(r"^### ([A-Z0-9_]+)$", re.M)
NOT_CODES = {"MEDUNLEARN_PASSPHRASE", "POLICY_"}
GATE_CODES = {f"GATE_{gate.upper()}" for gate in GATES}  # as the gatekeeper makes them


def test_every_code_of_the_runbook_is_raised_somewhere() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    sources = "".join(
        path.read_text() for side in ("common", "server", "client")
        for path in (ROOT / side).rglob("*.py"))
    headings = HEADING.findall(text)
    assert len(headings) >= 20 and len(set(headings)) == len(headings)
    named = {*headings, *CODE.findall(text)} - NOT_CODES - GATE_CODES
    assert [code for code in sorted(named) if f'"{code}"' not in sources] == []


def test_every_failure_says_what_to_do() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    for section in re.split(r"^### ", text, flags=re.M)[1:]:
        assert "**Do:**" in section or "not a fault to mend" in section, section[:30]
