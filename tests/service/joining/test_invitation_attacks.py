"""Attacks on what travels by mail: invitations, enrolments and notices; each must fail."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from joining_lab import AUTHORITY, DAY_S, HOME, NODE, NOW, OTHER_NODE, RIVAL, Federation

from medunlearn_common.armour import armoured, unarmoured
from medunlearn_common.enrolment import LABEL as ENROLMENT_LABEL
from medunlearn_common.enrolment import (
    Enrolment,
    node_public_key,
    open_enrolment,
    open_leave,
    require_successor_of_entry,
    write_enrolment,
    write_leave,
)
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope.dsse import parse_signed, sign_bytes
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.fingerprints import fingerprint, same_fingerprint
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.invitation import LABEL, open_invitation
from medunlearn_common.pki import issue_server, to_pem
from medunlearn_common.roster import Roster, enrolment_request
from medunlearn_common.strict_cbor import decode, encode


def refused(document: bytes, told: str | None = HOME.fingerprint, now: float = NOW) -> str:
    with pytest.raises((Rejected, Misconfigured)) as caught:
        open_invitation(document, now=now, told=told)
    return caught.value.code


def test_a_good_invitation_opens_and_says_all() -> None:
    opened = open_invitation(HOME.document(), now=NOW, told=HOME.fingerprint)
    assert opened.invitation == HOME.invitation()
    assert opened.root == HOME.root and opened.roster.sites == ("clinic-b",)


def test_mail_around_an_invitation_is_skipped_and_crlf_does_no_harm() -> None:
    mailed = b"Dear colleague,\n\n" + HOME.document().replace(b"\n", b"\r\n") + b"-- \nLead\n"
    assert open_invitation(mailed, now=NOW, told=HOME.fingerprint).invitation.site_id == "clinic-a"


def test_an_invitation_of_another_federation_has_another_fingerprint() -> None:
    assert refused(RIVAL.document()) == "INVITATION_FINGERPRINT"


def test_a_federation_of_the_same_root_under_another_name_has_another_fingerprint() -> None:
    twin = Federation(name="heart-netw0rk")
    assert twin.root == HOME.root
    assert refused(twin.document()) == "INVITATION_FINGERPRINT"


def test_a_rivals_root_is_not_taken_with_our_name() -> None:
    """The man in the middle keeps every name and signs all with keys of his own."""
    assert refused(RIVAL.document(RIVAL.invitation())) == "INVITATION_FINGERPRINT"


def test_every_changed_byte_of_an_invitation_is_refused() -> None:
    inner = bytearray(unarmoured(LABEL, HOME.document()))
    for place in range(0, len(inner), 29):
        inner[place] ^= 1
        assert refused(armoured(LABEL, bytes(inner))), place
        inner[place] ^= 1


@pytest.mark.parametrize("field, value", [
    ("address", "evil.example.org:9443"), ("authorities", b""), ("code_digest", "0" * 64),
    ("model_digest", "0" * 64), ("site_id", "clinic-b"), ("expires", int(NOW) + 10**8),
])
def test_a_tampered_field_breaks_the_coordinators_signature(field: str, value: object) -> None:
    outer = decode(unarmoured(LABEL, HOME.document()), max_bytes=1 << 20)
    document = parse_signed(outer["invitation"])
    content = {**decode(document.payload, max_bytes=1 << 20), field: value}
    changed = replace(document, payload=encode(content)).to_bytes()
    mailed = armoured(LABEL, encode({**outer, "invitation": changed}))
    assert refused(mailed) == "SIGNATURE_INVALID"


def test_a_hospital_of_the_roster_invites_nobody() -> None:
    assert refused(HOME.document(signer="clinic-b")) == "INVITATION_SIGNER"


def test_a_stranger_invites_nobody() -> None:
    assert refused(HOME.document(signer="stranger")) == "INVITATION_SIGNER"


def test_a_revoked_coordinator_invites_nobody() -> None:
    lead = HOME.key("lead").key_id
    roster = HOME.roster(parties=(HOME.entry("clinic-b"),), revoked=(lead,))
    assert refused(HOME.document(roster=roster)) == "INVITATION_SIGNER"


def test_a_roster_of_the_rivals_root_is_refused() -> None:
    assert refused(HOME.document(roster=RIVAL.roster())) == "ROSTER_SIGNATURES"


def test_a_signed_part_of_another_federation_is_refused() -> None:
    other = HOME.invitation(federation="lung-network")
    outer = decode(unarmoured(LABEL, HOME.document(other)), max_bytes=1 << 20)
    mailed = armoured(LABEL, encode({**outer, "federation": HOME.name}))
    assert refused(mailed) == "INVITATION_OTHER_FEDERATION"


def test_an_expired_invitation_is_refused_and_readable_later_for_checks() -> None:
    late = NOW + 15 * DAY_S
    assert refused(HOME.document(), now=late) == "INVITATION_EXPIRED"
    assert open_invitation(HOME.document(), now=late, allow_expired=True)
    assert refused(HOME.document(), now=NOW - DAY_S) == "INVITATION_EARLY"


def test_a_leaf_certificate_does_not_pass_for_the_authority() -> None:
    leaf = issue_server(AUTHORITY, ["lead.example.org"], now=NOW)
    with pytest.raises(Rejected) as caught:
        HOME.invitation(authorities=to_pem([leaf.certificate]))
    assert caught.value.code == "TLS_NO_AUTHORITY"


def test_fewer_words_than_all_are_no_comparison() -> None:
    words = HOME.fingerprint.split("-")
    assert len(words) == 8
    assert refused(HOME.document(), told=" ".join(words[:7])) == "FINGERPRINT_FORM"
    assert refused(HOME.document(), told="") == "FINGERPRINT_FORM"
    assert same_fingerprint(" ".join(words).upper(), HOME.fingerprint)


def test_fingerprints_of_two_things_never_coincide() -> None:
    assert fingerprint("medunlearn federation v1", b"x") != fingerprint("medunlearn enrolment v1",
                                                                        b"x")


def test_two_invitations_in_one_file_are_refused() -> None:
    assert refused(HOME.document() + RIVAL.document()) == "ARMOUR_MISSING"


# Enrolments.

def enrolment_refused(document: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        open_enrolment(document)
    return caught.value.code


def test_a_good_enrolment_opens() -> None:
    opened = open_enrolment(HOME.enrolment())
    assert opened.site_id == "clinic-a"
    assert opened.node_key == node_public_key(NODE.public_key())


def changed(document: bytes, **fields: object) -> bytes:
    signed = parse_signed(unarmoured(ENROLMENT_LABEL, document))
    content = {**decode(signed.payload, max_bytes=1 << 20), **fields}
    return armoured(ENROLMENT_LABEL, replace(signed, payload=encode(content)).to_bytes())


def test_a_node_key_swapped_on_the_way_breaks_the_sites_signature() -> None:
    swapped = changed(HOME.enrolment(), node_key=node_public_key(OTHER_NODE.public_key()))
    assert enrolment_refused(swapped) == "SIGNATURE_INVALID"


def test_a_site_key_swapped_on_the_way_is_refused() -> None:
    """The attacker signs all anew with his own key, but cannot make the node's key sign it."""
    other = decode(parse_signed(unarmoured(ENROLMENT_LABEL, RIVAL.enrolment())).payload,
                   max_bytes=1 << 20)
    mine = decode(parse_signed(unarmoured(ENROLMENT_LABEL, HOME.enrolment(node=OTHER_NODE))
                               ).payload, max_bytes=1 << 20)
    mixed = encode({**other, "node_key": mine["node_key"],
                    "node_possession": mine["node_possession"]})
    signed = sign_bytes(mixed, parse_signed(unarmoured(ENROLMENT_LABEL, RIVAL.enrolment())
                                            ).payload_type, RIVAL.key("clinic-a"))
    assert enrolment_refused(armoured(ENROLMENT_LABEL, signed.to_bytes())) == "NODE_KEY_POSSESSION"


def test_a_whole_new_enrolment_under_the_same_name_has_another_fingerprint() -> None:
    """Whoever read the invitation can make one; only people can tell, by these words."""
    assert open_enrolment(RIVAL.enrolment(federation=HOME.name)).fingerprint != \
        open_enrolment(HOME.enrolment()).fingerprint


def test_another_hospitals_node_cannot_be_enrolled_as_ones_own() -> None:
    """The node key signed for clinic-b; clinic-a presents that signature."""
    theirs = decode(parse_signed(unarmoured(ENROLMENT_LABEL, HOME.enrolment("clinic-b"))).payload,
                    max_bytes=1 << 20)
    mine = decode(parse_signed(unarmoured(ENROLMENT_LABEL, HOME.enrolment())).payload,
                  max_bytes=1 << 20)
    mixed = encode({**mine, "node_possession": theirs["node_possession"]})
    kind = parse_signed(unarmoured(ENROLMENT_LABEL, HOME.enrolment())).payload_type
    signed = sign_bytes(mixed, kind, HOME.key("clinic-a")).to_bytes()
    assert enrolment_refused(armoured(ENROLMENT_LABEL, signed)) == "NODE_KEY_POSSESSION"


def test_a_hospital_enrols_no_coordinator() -> None:
    assert enrolment_refused(HOME.enrolment(entry=HOME.entry("clinic-a", "coordinator"))
                             ) == "ENROLMENT_FORM"


def test_an_enrolment_does_not_write_over_the_coordinators_screen() -> None:
    """Its version is shown beside the question whether the fingerprint is right."""
    assert enrolment_refused(HOME.enrolment(package_version="\x1b[2K\r1.0")) == "ENROLMENT_FORM"


def test_a_notice_does_not_write_over_the_coordinators_screen() -> None:
    roster = Roster.from_bytes(parse_signed(HOME.roster(sites=("clinic-a",))).payload)
    notice = write_leave(HOME.key("clinic-a"), federation="heart\x1b[2J\nroster 9", at=int(NOW))
    with pytest.raises(Rejected) as caught:
        open_leave(notice, roster)
    assert caught.value.code == "LEAVE_FORM"


def test_a_truncated_enrolment_is_refused() -> None:
    text = HOME.enrolment().decode()
    lines = text.splitlines()
    assert enrolment_refused("\n".join([*lines[:3], *lines[4:], ""]).encode())
    body = base64.b64encode(b"\xa0").decode()
    assert enrolment_refused(
        f"-----BEGIN {ENROLMENT_LABEL}-----\n{body}\n-----END {ENROLMENT_LABEL}-----\n".encode()
    ) == "CBOR_SCHEMA"


def test_a_new_key_needs_the_old_keys_word() -> None:
    roster = Roster.from_bytes(parse_signed(HOME.roster(sites=("clinic-a",))).payload)
    fresh = SigningIdentity.generate("clinic-a", SeededEntropy(99))
    bare = enrolment_request(fresh, role="site", entity="Clinic", valid_from=0, valid_until=2**32)
    vouched = enrolment_request(fresh, role="site", entity="Clinic", valid_from=0,
                                valid_until=2**32, old=HOME.key("clinic-a"))

    def request(entry: object) -> Enrolment:
        plain = Enrolment(
            federation=HOME.name, token=b"", entry=entry,  # type: ignore[arg-type]
            node_key=node_public_key(NODE.public_key()), package_version="0.1.0",
            code_digest="", issued=int(NOW))
        return open_enrolment(write_enrolment(plain, fresh, NODE))

    require_successor_of_entry(request(vouched), roster)
    with pytest.raises(Rejected) as caught:
        require_successor_of_entry(request(bare), roster)
    assert caught.value.code == "ENROLMENT_ROTATION"


def test_nobody_leaves_for_another() -> None:
    roster = Roster.from_bytes(parse_signed(HOME.roster(sites=("clinic-a", "clinic-b"))).payload)
    notice = write_leave(HOME.key("clinic-a"), federation=HOME.name, at=int(NOW))
    assert open_leave(notice, roster) == (HOME.name, "clinic-a")
    forged = write_leave(SigningIdentity("clinic-a", HOME.key("clinic-b")._private_key),
                         federation=HOME.name, at=int(NOW))
    for document in (forged, write_leave(RIVAL.key("clinic-a"), federation=HOME.name, at=1)):
        with pytest.raises(Rejected) as caught:
            open_leave(document, roster)
        assert caught.value.code == "LEAVE_SIGNER"
