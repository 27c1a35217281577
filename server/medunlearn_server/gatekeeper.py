"""Applies the gates: writes every verdict down, and lets a failed one pass only by name.

Two files in the run's folder: ``gates.json``, the latest verdicts, and
``gate_overrides.json``, the decisions of named people, which are only added to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.gates import GATES, GateOverride
from medunlearn_server.reports import GateVerdict

GATES_FILE = "gates.json"
OVERRIDES_FILE = "gate_overrides.json"
_VERSION = 1
_FULL_NAME = re.compile(r"[^\W\d_][^\W\d_.'’-]*(?:[ .'’-]+[^\W\d_.'’-]+)+\.?")
_MIN_REASON = 10
_MAX_NAME = 64  # what the audit log takes


class Gatekeeper:
    """The gates of one run; what fails, and who lets it pass, enters the audit log."""

    def __init__(self, store: RunStore, trail: AuditTrail) -> None:
        self._store = store
        self._trail = trail

    def apply(self, verdicts: Sequence[GateVerdict]) -> tuple[GateVerdict, ...]:
        """Let the verdicts pass, failed ones only where somebody overrode them by name.

        Returns:
            The verdicts with the name and reason of whoever overrode each.

        Raises:
            Rejected: GATE_NORM, GATE_CANARY or GATE_UTILITY; all verdicts are on disk.
            Misconfigured: GATE_OVERRIDES_INVALID.
        """
        overrides = {o.gate: o for o in read_overrides(self._store.folder)}
        judged = tuple(_overridden(verdict, overrides) for verdict in verdicts)
        plain = [verdict.to_json() for verdict in judged]
        self._store.write_text(
            GATES_FILE, json.dumps({"version": _VERSION, "gates": plain}, indent=1) + "\n"
        )
        for verdict in judged:
            if not verdict.passed:
                self._trail.judged(verdict)
        for verdict in judged:
            if not verdict.passed and not verdict.overridden_by:
                raise Rejected(
                    f"GATE_{verdict.gate.upper()}",
                    f"{verdict.detail}; nothing was published, an earlier adapter stays in place",
                    "find the cause first: gates.json has all figures. A deployed run is stopped, "
                    "and another plan launched; in a simulation a named person may override it: "
                    f"medunlearn simulate --resume DIR --override-gate {verdict.gate} --by NAME "
                    "--because REASON",
                )
        return judged


def read_overrides(folder: Path) -> tuple[GateOverride, ...]:
    """The overrides of a run, oldest first; none where there is no file.

    Raises:
        Misconfigured: GATE_OVERRIDES_INVALID.
    """
    path = folder / OVERRIDES_FILE
    if not path.exists():
        return ()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise ValueError(document["version"])
        return tuple(
            new_override(entry["gate"], by=entry["by"], because=entry["because"], at=entry["at"])
            for entry in document["overrides"]
        )
    except (ValueError, KeyError, TypeError, Misconfigured) as error:
        raise Misconfigured(
            "GATE_OVERRIDES_INVALID", f"{path.name} of the run is damaged",
            "move it away and decide again; it is not repaired silently",
        ) from error


def add_override(store: RunStore, override: GateOverride) -> None:
    """Add one decision to the run's file, durably.

    Raises:
        Misconfigured: GATE_OVERRIDES_INVALID.
        Transient: STORAGE_FULL or STORAGE_FAILED.
    """
    entries = [o.to_json() for o in (*read_overrides(store.folder), override)]
    document = {"version": _VERSION, "overrides": entries}
    store.write_text(
        OVERRIDES_FILE, json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    )


def new_override(gate: str, *, by: str, because: str, at: str) -> GateOverride:
    """A checked override.

    Raises:
        Misconfigured: OVERRIDE_INVALID if the gate is unknown, the name is not a full one or
            the reason is too short to be one.
    """
    by, because = " ".join(by.split()), " ".join(because.split())
    if gate not in GATES:
        raise _invalid(f"there is no gate {gate[:20]!a}", f"one of {', '.join(GATES)}")
    if not _FULL_NAME.fullmatch(by) or len(by) > _MAX_NAME or not because.isprintable():
        raise _invalid("an override is signed by a person", "--by takes first and last name")
    if len(because) < _MIN_REASON:
        raise _invalid("an override needs a reason", "--because takes a sentence")
    return GateOverride(gate=gate, by=by, because=because, at=at)


def _invalid(what: str, hint: str) -> Misconfigured:
    return Misconfigured("OVERRIDE_INVALID", what, hint)


def _overridden(verdict: GateVerdict, overrides: dict[str, GateOverride]) -> GateVerdict:
    chosen = overrides.get(verdict.gate)
    if verdict.passed or chosen is None:
        return verdict
    return replace(
        verdict, overridden_by=chosen.by, overridden_because=chosen.because,
        overridden_at=chosen.at,
    )


