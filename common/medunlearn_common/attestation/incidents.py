"""What did not go as planned, as the coordinator's log tells it to who attests and who verifies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medunlearn_common.attestation.predicate import Incidents, Override
from medunlearn_common.audit.records import AuditRecord


def incidents_of(records: Iterable[AuditRecord]) -> Incidents:
    """Every stop, failed gate and override of a log, and who was refused when it was last said."""
    told: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        told.setdefault(record.kind, []).append(record.fields)
    agreed = told.get("sites_agreed", [{"refused": {}}])
    return Incidents(
        refused=dict(agreed[-1]["refused"]),
        stops=tuple(fields["code"] for fields in told.get("run_stopped", [])),
        gates_failed=tuple(
            dict.fromkeys(fields["gate"] for fields in told.get("gate_failed", []))
        ),
        overrides=tuple(
            Override(gate=f["gate"], by=f["by"], reason_digest=f["reason_digest"])
            for f in told.get("gate_overridden", [])
        ),
    )
