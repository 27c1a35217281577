"""What the tests of the audit log share: names of parties, and one kind of record."""

from __future__ import annotations

from medunlearn_common.audit import COORDINATOR, AuditLog

SITES = ("site-0", "site-1", "site-2")
ORIGIN = "coordinator/demo-1"
PARTIES = (COORDINATOR, *SITES, "stranger")


def add_round(log: AuditLog, number: int, **changed: object) -> None:
    fields: dict[str, object] = {
        "round": number, "sites": list(SITES), "sum_digest": f"{number:064x}", "failures": {},
        "attempts": 1, "epsilon": 0.5 * (number + 1),
    }
    log.append("round_accepted", **{**fields, **changed})
