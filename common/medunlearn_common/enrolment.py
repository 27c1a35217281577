"""An enrolment: what a hospital sends back, signed by its key, with its node's public key.

It holds the roster entry, Flower's node key and the invitation's token. Two signatures of three
keep it together: the site's key signs all of it, the node's key signs the site's key and the
token. So neither key can be exchanged on the way, and nobody enrols another's node as his own.
A file that is new from head to foot, made by whoever read the invitation, is told by the
fingerprint that two people compare by telephone.

The same document carries later changes: a new node key, signed by the key in the roster, or a
new signing key, for which the old one vouches in the entry. Then there is no token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_public_key,
)

from medunlearn_common.armour import armoured, unarmoured
from medunlearn_common.envelope.dsse import open_signed, parse_signed, sign_bytes
from medunlearn_common.errors import Rejected
from medunlearn_common.fingerprints import fingerprint
from medunlearn_common.identity import SigningIdentity, verify_signature
from medunlearn_common.identity.keys import pre_authentication_encoding
from medunlearn_common.invitation import TOKEN_BYTES
from medunlearn_common.roster import Party, Roster
from medunlearn_common.roster.document import ROTATION, party_from_bytes, party_to_bytes
from medunlearn_common.strict_cbor import decode_map, encode

ENROLMENT_TYPE = "application/vnd.medunlearn.site-enrolment.v1+cbor"
NODE_POSSESSION = "application/vnd.medunlearn.node-possession.v1+cbor"
LEAVE_TYPE = "application/vnd.medunlearn.leave.v1+cbor"
LABEL, LEAVE_LABEL = "MEDUNLEARN ENROLMENT", "MEDUNLEARN LEAVE"
MAX_ENROLMENT_BYTES = 1 << 16
_TYPES: Mapping[str, type] = {
    "federation": str, "token": bytes, "entry": bytes, "node_key": bytes,
    "node_possession": bytes, "package_version": str, "code_digest": str, "issued": int,
}
_LEAVE_TYPES: Mapping[str, type] = {"federation": str, "site_id": str, "at": int}
_HINT = "ask the hospital for the file again, and compare its fingerprint by telephone"


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """A hospital's request to take part, or to change a key.

    Attributes:
        federation: Name of the federation.
        token: Of the invitation; empty for a change of keys.
        entry: What goes into the roster.
        node_key: Flower node's public key, OpenSSH form.
        package_version: Of medunlearn at the hospital.
        code_digest: Of its code.
        issued: Seconds since 1970; a later change of keys is not undone by an earlier file.
        fingerprint: Eight words over everything.
    """

    federation: str
    token: bytes
    entry: Party
    node_key: bytes
    package_version: str
    code_digest: str
    issued: int
    fingerprint: str = ""

    @property
    def site_id(self) -> str:
        """The hospital's party id."""
        return self.entry.party_id


def node_public_key(key: ec.EllipticCurvePublicKey) -> bytes:
    """OpenSSH form, as ``flwr supernode register`` reads it, without a comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def write_enrolment(
    enrolment: Enrolment, identity: SigningIdentity, node: ec.EllipticCurvePrivateKey
) -> bytes:
    """The armoured file.

    Args:
        enrolment: Its content; the fingerprint is made anew.
        identity: The key that ``enrolment.entry`` names.
        node: The key whose public half ``enrolment.node_key`` is.
    """
    statement = _node_statement(enrolment.entry, enrolment.token)
    payload = encode({
        "federation": enrolment.federation, "token": enrolment.token,
        "entry": party_to_bytes(enrolment.entry), "node_key": enrolment.node_key,
        "node_possession": node.sign(pre_authentication_encoding(NODE_POSSESSION, statement),
                                     ec.ECDSA(hashes.SHA384())),
        "package_version": enrolment.package_version, "code_digest": enrolment.code_digest,
        "issued": enrolment.issued,
    })
    return armoured(LABEL, sign_bytes(payload, ENROLMENT_TYPE, identity).to_bytes())


def open_enrolment(document: bytes) -> Enrolment:
    """Check an enrolment's own signatures; whether its hospital is the right one is not in it.

    Raises:
        Rejected: ARMOUR_, CBOR_, DSSE_, KEY_ codes, SIGNATURE_INVALID, ROSTER_FORM,
            ENROLMENT_FORM, ENROLMENT_SIGNER, NODE_KEY_INVALID, NODE_KEY_POSSESSION.
    """
    signed = parse_signed(unarmoured(LABEL, document), max_bytes=MAX_ENROLMENT_BYTES)
    found = decode_map(signed.payload, keys=frozenset(_TYPES), max_bytes=MAX_ENROLMENT_BYTES)
    if any(not isinstance(found[name], kind) for name, kind in _TYPES.items()):
        raise _malformed()
    entry = party_from_bytes(found["entry"])

    def key_of(key: str) -> bytes:
        if key != entry.key_id:
            raise Rejected("ENROLMENT_SIGNER", "signed by another key than it enrols", _HINT)
        return entry.public_key

    # The payload had to be read for the key that it enrols; nothing of it is used before this.
    open_signed(signed, payload_type=ENROLMENT_TYPE, key_of=key_of)
    if entry.role != "site" or len(found["token"]) not in (0, TOKEN_BYTES):
        raise _malformed()
    if not found["package_version"].isprintable():  # it is shown at the coordinator's terminal
        raise _malformed()
    _require_possession(found["node_key"], found["node_possession"],
                        _node_statement(entry, found["token"]))
    return Enrolment(
        federation=found["federation"], token=found["token"], entry=entry,
        node_key=found["node_key"], package_version=found["package_version"][:64],
        code_digest=found["code_digest"][:64], issued=found["issued"],
        fingerprint=fingerprint("medunlearn enrolment v1", signed.payload),
    )


def require_successor_of_entry(enrolment: Enrolment, roster: Roster) -> None:
    """A change of keys must come from the site itself, as the roster in force knows it.

    Raises:
        Rejected: PARTY_UNKNOWN, KEY_REVOKED, ENROLMENT_ROTATION.
    """
    current = roster.party(enrolment.site_id)
    if current.key_id in roster.revoked:
        raise Rejected("KEY_REVOKED", f"the key of {enrolment.site_id} was revoked",
                       "invite the hospital anew")
    if current.key_id == enrolment.entry.key_id:
        return
    try:
        verify_signature(current.public_key, ROTATION, enrolment.entry.statement,
                         enrolment.entry.rotation)
    except Rejected as error:
        raise Rejected("ENROLMENT_ROTATION", f"the key that {enrolment.site_id} has in the roster "
                       "does not vouch for the new one", "the hospital makes the file with "
                       "`medunlearn hospital rotate`; if the old key is lost, revoke it and invite "
                       "the hospital anew") from error


def write_leave(identity: SigningIdentity, *, federation: str, at: int) -> bytes:
    """A site's signed word that it leaves."""
    payload = encode({"federation": federation, "site_id": identity.party_id, "at": at})
    return armoured(LEAVE_LABEL, sign_bytes(payload, LEAVE_TYPE, identity).to_bytes())


def open_leave(document: bytes, roster: Roster) -> tuple[str, str]:
    """Federation and site of a notice that the site's key in the roster signed.

    Raises:
        Rejected: ARMOUR_, CBOR_, DSSE_ codes, SIGNATURE_INVALID, LEAVE_SIGNER, LEAVE_FORM.
    """
    signed = parse_signed(unarmoured(LEAVE_LABEL, document), max_bytes=MAX_ENROLMENT_BYTES)
    signers: dict[str, Party] = {party.key_id: party for party in roster.parties}

    def key_of(key: str) -> bytes:
        if key not in signers:
            raise Rejected("LEAVE_SIGNER", "signed by nobody in the roster", _HINT)
        return signers[key].public_key

    signer, payload = open_signed(signed, payload_type=LEAVE_TYPE, key_of=key_of)
    found: Mapping[str, Any] = decode_map(payload, keys=frozenset(_LEAVE_TYPES),
                                          max_bytes=MAX_ENROLMENT_BYTES)
    if any(not isinstance(found[name], kind) for name, kind in _LEAVE_TYPES.items()):
        raise Rejected("LEAVE_FORM", "the notice is malformed", _HINT)
    if not found["federation"].isprintable():  # it is shown at the coordinator's terminal
        raise Rejected("LEAVE_FORM", "the notice is malformed", _HINT)
    if signers[signer].party_id != found["site_id"]:
        raise Rejected("LEAVE_SIGNER", "signed by another party than it names", _HINT)
    return found["federation"], found["site_id"]


def _node_statement(entry: Party, token: bytes) -> bytes:
    return encode({"site_id": entry.party_id, "site_key": entry.public_key, "token": token})


def _require_possession(node_key: bytes, signature: bytes, statement: bytes) -> None:
    try:
        key = load_ssh_public_key(node_key)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Rejected("NODE_KEY_INVALID", "the node's key is no OpenSSH public key",
                       _HINT) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1" or \
            node_public_key(key) != node_key:
        raise Rejected("NODE_KEY_INVALID", "the node's key is no plain ECDSA P-384 key", _HINT)
    try:
        key.verify(signature, pre_authentication_encoding(NODE_POSSESSION, statement),
                   ec.ECDSA(hashes.SHA384()))
    except InvalidSignature as error:
        raise Rejected("NODE_KEY_POSSESSION", "the node's key did not sign for this hospital: it "
                       "is another one's, or was exchanged on the way", _HINT) from error


def _malformed() -> Rejected:
    return Rejected("ENROLMENT_FORM", "the enrolment is malformed",
                    "use the same medunlearn version at hospital and coordinator")
