"""What the tests of the audit log share: names of parties, and one kind of record."""

from __future__ import annotations

from collections.abc import Mapping

from medunlearn_common.audit import COORDINATOR, AuditLog
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.roster import Root, Roster, enrolment_request

SITES = ("site-0", "site-1", "site-2")
ORIGIN = "coordinator/demo-1"
PARTIES = (COORDINATOR, *SITES, "stranger")


def roster_of(
    signers: Mapping[str, SigningIdentity], *, revoked: tuple[str, ...] = ()
) -> Roster:
    """A roster of these parties, the one named coordinator as such; ``revoked`` by name."""
    root = SigningIdentity.generate("root", SeededEntropy(8))
    return Roster(
        version=1, issued=0, expires=2**32, root=Root(threshold=1, keys=(root.public_key,)),
        revoked=tuple(sorted(signers[name].key_id for name in revoked)),
        parties=tuple(
            enrolment_request(
                signers[name], role="coordinator" if name == COORDINATOR else "site",
                entity="Hospital GmbH", valid_from=0, valid_until=2**32,
            ) for name in sorted(signers)
        ),
    )


def add_round(log: AuditLog, number: int, **changed: object) -> None:
    fields: dict[str, object] = {
        "round": number, "sites": list(SITES), "sum_digest": f"{number:064x}", "failures": {},
        "attempts": 1, "epsilon": 0.5 * (number + 1),
    }
    log.append("round_accepted", **{**fields, **changed})
