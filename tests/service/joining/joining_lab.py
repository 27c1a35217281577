"""A federation with real keys and certificates, for the attacks on joining."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from medunlearn_common.enrolment import Enrolment, node_public_key, write_enrolment
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope.dsse import sign_bytes
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.invitation import Invitation, federation_fingerprint, write_invitation
from medunlearn_common.pki import KeyPair, new_authority, to_pem
from medunlearn_common.roster import Party, Root, Roster, enrolment_request
from medunlearn_common.roster.document import ROSTER_TYPE

NOW = 1_790_000_000.0
DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class Federation:
    """One coordinator with a consortium of its own; ``seed`` makes another one."""

    seed: int = 1
    name: str = "heart-network"

    def key(self, who: str) -> SigningIdentity:
        return SigningIdentity.generate(who, SeededEntropy(self.seed))

    @property
    def root(self) -> Root:
        keys = sorted(self.key(f"root-{i}").public_key for i in range(3))
        return Root(threshold=2, keys=tuple(keys))

    @property
    def fingerprint(self) -> str:
        return federation_fingerprint(self.name, self.root)

    def entry(self, who: str, role: str = "site", **changes: Any) -> Party:
        given: dict[str, Any] = {"entity": "Clinic", "valid_from": 0, "valid_until": 2**32}
        return enrolment_request(self.key(who), role=role, **{**given, **changes})  # type: ignore[arg-type]

    def roster(self, version: int = 1, sites: tuple[str, ...] = (), **changes: Any) -> bytes:
        parties = [self.entry("lead", "coordinator"), *(self.entry(site) for site in sites)]
        given: dict[str, Any] = {
            "version": version, "issued": int(NOW), "expires": int(NOW) + 90 * DAY_S,
            "parties": tuple(sorted(parties, key=lambda p: p.party_id)), "root": self.root,
        }
        roster = Roster(**{**given, **changes})
        signers = [self.key(f"root-{i}") for i in range(2)]
        return sign_bytes(roster.to_bytes(), ROSTER_TYPE, *signers).to_bytes()

    def invitation(self, authority: KeyPair | None = None, **changes: Any) -> Invitation:
        authority = authority or AUTHORITY
        plain = Invitation(
            federation=self.name, coordinator="lead", site_id="clinic-a",
            address="lead.example.org:9443", authorities=to_pem([authority.certificate]),
            token=b"t" * 16, package_version="0.1.0", code_digest="c" * 64, model="",
            model_digest="", tokenizer_digest="", issued=int(NOW), expires=int(NOW) + 14 * DAY_S,
        )
        return replace(plain, **changes)

    def document(self, invitation: Invitation | None = None, *, signer: str = "lead",
                 roster: bytes | None = None, root: Root | None = None) -> bytes:
        return write_invitation(
            invitation or self.invitation(), self.key(signer), root=root or self.root,
            roster_document=roster or self.roster(sites=("clinic-b",)),
        )

    def enrolment(self, who: str = "clinic-a", *, node: ec.EllipticCurvePrivateKey | None = None,
                  **changes: Any) -> bytes:
        node = node or NODE
        plain = Enrolment(
            federation=self.name, token=b"t" * 16, entry=self.entry(who),
            node_key=node_public_key(node.public_key()), package_version="0.1.0",
            code_digest="c" * 64, issued=int(NOW),
        )
        return write_enrolment(replace(plain, **changes), self.key(who), node)


AUTHORITY = new_authority("heart-network", now=NOW)
NODE = ec.derive_private_key(7, ec.SECP384R1())
OTHER_NODE = ec.derive_private_key(8, ec.SECP384R1())
HOME, RIVAL = Federation(), Federation(seed=2)
