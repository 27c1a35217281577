"""The files that travel between a coordinator and a hospital before they trust each other.

Damage to a signed file stops at its signature. So each document is there three times: as it
travels, as what its armour holds, and as content that was damaged *before* it was signed, which
is what a hostile party with a key of its own can send.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
if str(_TESTS / "service" / "joining") not in sys.path:
    sys.path.append(str(_TESTS / "service" / "joining"))

import joining_lab as lab  # noqa: E402

from medunlearn_common.armour import armoured, unarmoured  # noqa: E402
from medunlearn_common.enrolment import (  # noqa: E402
    ENROLMENT_TYPE,
    LEAVE_LABEL,
    LEAVE_TYPE,
    open_enrolment,
    open_leave,
    require_successor_of_entry,
    write_leave,
)
from medunlearn_common.enrolment import LABEL as ENROLMENT_LABEL  # noqa: E402
from medunlearn_common.envelope.dsse import parse_signed, sign_bytes  # noqa: E402
from medunlearn_common.invitation import (  # noqa: E402
    INVITATION_TYPE,
    invitation_fingerprint,
    open_invitation,
)
from medunlearn_common.invitation import LABEL as INVITATION_LABEL  # noqa: E402
from medunlearn_common.roster import Roster  # noqa: E402
from medunlearn_common.roster.trusted import verify_roster  # noqa: E402
from medunlearn_common.strict_cbor import decode_map, encode  # noqa: E402

Read = Callable[[bytes], object]

INVITATION = lab.HOME.document()
ENROLMENT = lab.HOME.enrolment()
LEAVE = write_leave(lab.HOME.key("clinic-a"), federation=lab.HOME.name, at=int(lab.NOW))
_OUTER = decode_map(
    unarmoured(INVITATION_LABEL, INVITATION), max_bytes=1 << 20,
    keys=frozenset(("federation", "root", "roster", "invitation")))


def _roster() -> Roster:
    return verify_roster(lab.HOME.roster(sites=("clinic-a",)), lab.HOME.root, now=lab.NOW)


ROSTER = _roster()


def read_invitation(document: bytes) -> None:
    """As a hospital does: the words first, then all of it, then as one that was kept."""
    words = invitation_fingerprint(document)
    opened = open_invitation(document, now=lab.NOW, told=words)
    assert opened.fingerprint == words
    assert open_invitation(document, now=lab.NOW + 1e9, allow_expired=True).root == opened.root


def read_enrolment(document: bytes) -> None:
    """As a coordinator does, for a new hospital and for a change of keys."""
    enrolment = open_enrolment(document)
    enrolment.fingerprint.encode("ascii")
    require_successor_of_entry(enrolment, ROSTER)


def read_leave(document: bytes) -> None:
    """As a coordinator does."""
    open_leave(document, ROSTER)


def _invitation_of(payload: bytes) -> bytes:
    signed = sign_bytes(payload, INVITATION_TYPE, lab.HOME.key("lead")).to_bytes()
    return armoured(INVITATION_LABEL, encode({**_OUTER, "invitation": signed}))


def _signed_by_the_site(payload: bytes, kind: str, label: str) -> bytes:
    return armoured(label, sign_bytes(payload, kind, lab.HOME.key("clinic-a")).to_bytes())


DOCUMENTS: dict[str, tuple[bytes, Read]] = {
    "invitation": (INVITATION, read_invitation),
    "invitation, inside": (
        unarmoured(INVITATION_LABEL, INVITATION),
        lambda data: read_invitation(armoured(INVITATION_LABEL, data))),
    "invitation, signed": (
        parse_signed(_OUTER["invitation"], max_bytes=1 << 20).payload,
        lambda data: read_invitation(_invitation_of(data))),
    "enrolment": (ENROLMENT, read_enrolment),
    "enrolment, inside": (
        unarmoured(ENROLMENT_LABEL, ENROLMENT),
        lambda data: read_enrolment(armoured(ENROLMENT_LABEL, data))),
    "enrolment, signed": (
        parse_signed(unarmoured(ENROLMENT_LABEL, ENROLMENT), max_bytes=1 << 20).payload,
        lambda data: read_enrolment(_signed_by_the_site(data, ENROLMENT_TYPE, ENROLMENT_LABEL))),
    "leave": (LEAVE, read_leave),
    "leave, signed": (
        parse_signed(unarmoured(LEAVE_LABEL, LEAVE), max_bytes=1 << 20).payload,
        lambda data: read_leave(_signed_by_the_site(data, LEAVE_TYPE, LEAVE_LABEL))),
}
"""Name to a whole document (or its inside) and what reads it."""
