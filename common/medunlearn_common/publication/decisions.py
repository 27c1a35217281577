"""A hospital's word on a published adapter: countersigned or objected, signed with its key.

A person decides; the site's key signs. The reason stays at the hospital, what leaves is a salted
digest of it: it commits the hospital to its reason, and cannot be guessed from a short text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from medunlearn_common.audit.kinds import count, name, person, run_id
from medunlearn_common.envelope.dsse import Signer, open_signed, parse_signed, sign_bytes
from medunlearn_common.envelope.sealing import KeyBook
from medunlearn_common.errors import Rejected
from medunlearn_common.strict_cbor import decode_map, encode

DECISION_TYPE: Final = "application/vnd.medunlearn.decision.v1+cbor"
MAX_DECISION_BYTES: Final = 16 << 10
Verdict = Literal["countersigned", "objected"]
COUNTERSIGNED: Final = "countersigned"
OBJECTED: Final = "objected"
_DIGEST_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One decision.

    Attributes:
        run: The run.
        site: Party id of the hospital.
        attestation: SHA-256 of the attestation's file, 32 bytes: the decision is on this very
            adapter with this very evidence.
        adapter: Digest of the adapter, 32 bytes.
        verdict: ``countersigned`` or ``objected``.
        by: Who decided.
        reason: Salted digest of the reason, 32 bytes.
        number: From 1; a later decision of this hospital on this adapter replaces it.
        issued: Seconds since 1970 by the hospital's clock.
    """

    run: str
    site: str
    attestation: bytes
    adapter: bytes
    verdict: str
    by: str
    reason: bytes
    number: int
    issued: int

    def sign(self, signer: Signer) -> bytes:
        """The decision as a DSSE document of one signature."""
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        return sign_bytes(encode(content), DECISION_TYPE, signer).to_bytes()


def open_decision(data: bytes, keys: KeyBook, *, now: float) -> Decision:
    """Verify and read a decision.

    Args:
        data: The DSSE document.
        keys: The roster.
        now: Seconds since 1970, for the validity of keys.

    Raises:
        Rejected: DSSE_, CBOR_ or KEY_ codes, SIGNATURE_INVALID, DECISION_FORM, or
            DECISION_SIGNER if it is signed with another party's key.
    """
    document = parse_signed(data, max_bytes=MAX_DECISION_BYTES)
    party: dict[str, str] = {}

    def key_of(key: str) -> bytes:
        party[key], public_key = keys.party_of_key(key, now=now)
        return public_key

    signer, payload = open_signed(document, payload_type=DECISION_TYPE, key_of=key_of)
    names = frozenset(field.name for field in fields(Decision))
    found = decode_map(payload, keys=names, max_bytes=MAX_DECISION_BYTES)
    _require_form(found)
    if party[signer] != found["site"]:
        raise Rejected(
            "DECISION_SIGNER", f"a decision of {found['site']} is signed by {party[signer]}",
            "each hospital decides for itself",
        )
    return Decision(**found)


def _require_form(found: Mapping[str, Any]) -> None:
    lawful = (
        run_id(found["run"]) and name(found["site"]) and person(found["by"])
        and found["verdict"] in (COUNTERSIGNED, OBJECTED)
        and count(found["number"]) and count(found["issued"])
        and all(isinstance(found[key], bytes) and len(found[key]) == _DIGEST_BYTES
                for key in ("attestation", "adapter", "reason"))
    )
    if not lawful:
        raise Rejected(
            "DECISION_FORM", "a decision has no lawful value in one of its fields",
            "use the same medunlearn version at every party",
        )
