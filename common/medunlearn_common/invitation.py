"""An invitation: everything that a hospital needs to join, in one file that may travel by mail.

    outer (CBOR, armoured)   federation, root, roster, invitation
    invitation (DSSE)        signed by the coordinator's key, which the roster names

A file cannot vouch for itself: anybody can make a root of their own and sign all the rest with
it. So two people compare one fingerprint, over federation and root, by telephone; everything
else hangs on it. Steps of :func:`open_invitation`, each of which only goes on from what holds:

1. the fingerprint over federation and root, as the coordinator told it;
2. the roster, signed by that root;
3. the invitation, signed by a coordinator of that roster;
4. only then its content: same federation, not expired, an authority's certificate.

The token in it is no secret. It makes an invitation good for one hospital, once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from medunlearn_common.armour import armoured, unarmoured
from medunlearn_common.envelope.dsse import Signer, open_signed, parse_signed, sign_bytes
from medunlearn_common.errors import Rejected
from medunlearn_common.fingerprints import fingerprint, same_fingerprint
from medunlearn_common.naming import NAME
from medunlearn_common.pki import certificates_from_pem, require_authority
from medunlearn_common.roster import Root, Roster, verify_roster
from medunlearn_common.roster.document import SKEW_S
from medunlearn_common.strict_cbor import decode_map, encode

INVITATION_TYPE = "application/vnd.medunlearn.invitation.v1+cbor"
LABEL = "MEDUNLEARN INVITATION"
MAX_INVITATION_BYTES = 8 << 20
TOKEN_BYTES = 16
_OUTER = frozenset(("federation", "root", "roster", "invitation"))
_ADDRESS = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_DIGEST = re.compile(r"([0-9a-f]{64})?")
_HINT = "ask the coordinator for a new invitation, and compare its fingerprint by telephone"


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a coordinator tells one hospital.

    Attributes:
        federation: Name of the federation.
        coordinator: Party id of who invites.
        site_id: Party id that the hospital will have.
        address: ``host:port`` of the gateway.
        authorities: PEM of whom the gateway's certificate is signed by.
        token: 16 bytes; names this invitation.
        package_version: Version of medunlearn that the federation uses.
        code_digest: See :func:`medunlearn_common.code_digest.installed_code_digest`.
        model: Name of the base model, for people; empty if open.
        model_digest: Of the base model, or empty.
        tokenizer_digest: Of its tokenizer, or empty.
        issued: Seconds since 1970.
        expires: Seconds since 1970.
    """

    federation: str
    coordinator: str
    site_id: str
    address: str
    authorities: bytes
    token: bytes
    package_version: str
    code_digest: str
    model: str
    model_digest: str
    tokenizer_digest: str
    issued: int
    expires: int

    def __post_init__(self) -> None:
        good = (
            all(NAME.fullmatch(n) for n in (self.federation, self.coordinator, self.site_id))
            and _ADDRESS.fullmatch(self.address) and len(self.token) == TOKEN_BYTES
            and _DIGEST.fullmatch(self.code_digest) and _DIGEST.fullmatch(self.model_digest)
            and _DIGEST.fullmatch(self.tokenizer_digest)
            and len(self.package_version) <= 64 and self.package_version.isprintable()
            and len(self.model) <= 400 and self.model.isprintable()
            and 0 <= self.issued < self.expires
        )
        if not good:
            raise _malformed()
        for certificate in certificates_from_pem(self.authorities):
            require_authority(certificate)


_TYPES: Mapping[str, type] = {
    "federation": str, "coordinator": str, "site_id": str, "address": str, "authorities": bytes,
    "token": bytes, "package_version": str, "code_digest": str, "model": str,
    "model_digest": str, "tokenizer_digest": str, "issued": int, "expires": int,
}


@dataclass(frozen=True, kw_only=True)
class OpenedInvitation:
    """An invitation that held, with what it came with.

    Attributes:
        invitation: Its content.
        root: What the hospital pins.
        roster: The roster that came along.
        roster_document: Its signed form.
        fingerprint: Eight words over federation and root.
    """

    invitation: Invitation
    root: Root
    roster: Roster
    roster_document: bytes
    fingerprint: str


def federation_fingerprint(federation: str, root: Root) -> str:
    """What is compared by telephone: the same words for every hospital of a federation.

    It changes only when the consortium's root hands over to another one.
    """
    return fingerprint("medunlearn federation v1",
                       encode({"federation": federation, "root": root.to_bytes()}))


def write_invitation(
    invitation: Invitation, signer: Signer, *, root: Root, roster_document: bytes
) -> bytes:
    """The armoured file; the same invitation gives the same bytes."""
    content = {name: getattr(invitation, name) for name in _TYPES}
    signed = sign_bytes(encode(content), INVITATION_TYPE, signer).to_bytes()
    return armoured(LABEL, encode({
        "federation": invitation.federation, "root": root.to_bytes(),
        "roster": roster_document, "invitation": signed,
    }))


def invitation_fingerprint(document: bytes) -> str:
    """The fingerprint that a file claims, before anything of it is believed.

    Raises:
        Rejected: ARMOUR_ or CBOR_ codes, INVITATION_FORM, ROSTER_FORM.
    """
    outer = _outer(document)
    return federation_fingerprint(outer["federation"], Root.from_bytes(outer["root"]))


def open_invitation(
    document: bytes, *, now: float, told: str | None = None, allow_expired: bool = False
) -> OpenedInvitation:
    """Check an invitation.

    Args:
        document: The armoured file.
        now: Seconds since 1970.
        told: The fingerprint as the coordinator told it; None believes the file itself (trust
            on first use): whoever could change it on the way is then believed for good.
        allow_expired: To read one that was used in time.

    Raises:
        Rejected: ARMOUR_, CBOR_, DSSE_, ROSTER_, KEY_ codes, SIGNATURE_INVALID, INVITATION_FORM,
            INVITATION_FINGERPRINT, INVITATION_SIGNER, INVITATION_OTHER_FEDERATION,
            INVITATION_EXPIRED, INVITATION_EARLY, TLS_ codes.
        Misconfigured: FINGERPRINT_FORM.

    Guarantees:
        With ``told``, every byte that is returned is vouched for by the root behind these words.
    """
    outer = _outer(document)
    root = Root.from_bytes(outer["root"])
    words = federation_fingerprint(outer["federation"], root)
    if told is not None and not same_fingerprint(told, words):
        raise Rejected("INVITATION_FINGERPRINT", "the fingerprint is not the one you were told",
                       "use nothing of this file: it is of another federation, or was changed on "
                       "the way; tell the coordinator")
    roster = verify_roster(outer["roster"], root, now=0.0 if allow_expired else now)
    invitation = _opened(outer["invitation"], roster)
    if invitation.federation != outer["federation"]:
        raise Rejected("INVITATION_OTHER_FEDERATION", "the signed part is of another federation "
                       "than the file", _HINT)
    if not allow_expired:
        _require_in_time(invitation, now)
    return OpenedInvitation(invitation=invitation, root=root, roster=roster,
                            roster_document=outer["roster"], fingerprint=words)


def _outer(document: bytes) -> Mapping[str, Any]:
    outer = decode_map(unarmoured(LABEL, document), keys=_OUTER, max_bytes=MAX_INVITATION_BYTES)
    federation = outer["federation"]
    if not isinstance(federation, str) or not NAME.fullmatch(federation) or not all(
        isinstance(outer[name], bytes) for name in ("root", "roster", "invitation")
    ):
        raise _malformed()
    return outer


def _opened(data: bytes, roster: Roster) -> Invitation:
    """Step 3, then 4: content that a coordinator of ``roster`` signed."""
    def key_of(key: str) -> bytes:
        for party in roster.parties:
            if party.key_id == key and party.role == "coordinator" and key not in roster.revoked:
                return party.public_key
        raise Rejected("INVITATION_SIGNER", "signed by nobody who is a coordinator of the roster",
                       _HINT)

    document = parse_signed(data, max_bytes=MAX_INVITATION_BYTES)
    signer, payload = open_signed(document, payload_type=INVITATION_TYPE, key_of=key_of)
    found = decode_map(payload, keys=frozenset(_TYPES), max_bytes=MAX_INVITATION_BYTES)
    if any(not isinstance(found[n], kind) or isinstance(found[n], bool)
           for n, kind in _TYPES.items()):
        raise _malformed()
    invitation = Invitation(**found)
    if roster.party(invitation.coordinator).key_id != signer:
        raise Rejected("INVITATION_SIGNER", "signed by another coordinator than it names", _HINT)
    return invitation


def _require_in_time(invitation: Invitation, now: float) -> None:
    if now > invitation.expires + SKEW_S:
        until = datetime.fromtimestamp(invitation.expires, UTC).strftime("%Y-%m-%d %H:%M")
        raise Rejected("INVITATION_EXPIRED", f"the invitation was good until {until} UTC",
                       "ask the coordinator for a new one; if it is new, check this clock")
    if now < invitation.issued - SKEW_S:
        raise Rejected("INVITATION_EARLY", "the invitation was made later than this machine's now",
                       "set this machine's clock")


def _malformed() -> Rejected:
    return Rejected("INVITATION_FORM", "the invitation is malformed",
                    "use the same medunlearn version as the coordinator")
