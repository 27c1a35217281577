"""What a mask belongs to: run, session, keys, participants, release, plan, model, support.

Every site derives its seeds from its own view of all this. Sites that were shown different
models, supports or participants derive different seeds, their masks do not cancel, and the
coordinator is left with noise instead of a difference that would name one site.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from medunlearn_common.digests import canonical_json, digest_of
from medunlearn_common.errors import Rejected
from medunlearn_common.masking.keys import agree, derive
from medunlearn_common.masking.members import Members
from medunlearn_common.masking.parameters import PROTOCOL
from medunlearn_common.messages import EVALUATE, STEP, VOTE, Message


def release_name(request: Message) -> str:
    """The release that a request asks for; one vector of a site belongs to each name.

    Raises:
        Rejected: MASKING_KIND if nothing of this kind may leave a site.
    """
    if request.kind == VOTE:
        return "vote"
    if request.kind == STEP:
        return f"round-{request.integer('round')}"
    if request.kind == EVALUATE:
        return "evaluation"
    raise Rejected(
        "MASKING_KIND", "no release of this kind may leave a site", "update this node"
    )


def request_digest(request: Message) -> str:
    """What must be the same for all sites: the request without the support itself.

    A site that already has the support is not sent it again; its digest stays in the fields.
    """
    fields, payload = dict(request.fields), request.payload
    if "support_bytes" in fields:
        start, size = request.integer("values_bytes"), request.integer("support_bytes")
        payload = payload[:start] + payload[start + size :]
        del fields["support_bytes"]
    return digest_of(
        {"kind": request.kind, "fields": fields, "payload": hashlib.sha256(payload).hexdigest()}
    )


@dataclass(frozen=True, kw_only=True)
class Binding:
    """One attempt at one masked sum, as one party sees it.

    Attributes:
        members: All sites with keys in the session.
        participants: Positions whose shares arrived, sorted: who masks.
        release: Name of the release.
        request: :func:`request_digest`; plan, layout and support digests are fields of it.
        model_digest: Of the base model.
    """

    members: Members
    participants: tuple[int, ...]
    release: str
    request: str
    model_digest: str

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that go into every seed and signature of this attempt."""
        return hashlib.sha256(canonical_json({
            "protocol": PROTOCOL, "run": self.members.run_id, "session": self.members.session,
            "transcript": self.members.transcript.hex(),
            "participants": list(self.participants), "release": self.release,
            "request": self.request, "model": self.model_digest,
        })).digest()

    def self_mask_seed(self, self_seed: bytes, position: int) -> bytes:
        """Seed of a site's own mask."""
        return derive(self_seed, "self-mask", self.digest + position.to_bytes(2, "big"))

    def pair_mask_seed(self, private: bytes, position: int, other: int) -> bytes:
        """Seed of the mask between two sites; both sides get the same.

        Args:
            private: Mask key of ``position``.
            position: Whose key it is.
            other: The neighbour, whose public key the session knows.

        Raises:
            Rejected: MASKING_KEY_LOW_ORDER.
        """
        secret = agree(private, self.members.offers[other].mask_key)
        pair = b"".join(p.to_bytes(2, "big") for p in sorted((position, other)))
        return derive(secret, "pair-mask", self.digest + pair)

    def masking_neighbours(self, position: int) -> tuple[int, ...]:
        """The participants with whom one site masks."""
        present = set(self.participants)
        return tuple(p for p in self.members.neighbours(position) if p in present)


def survivors_digest(
    binding: Binding, survivors: Sequence[int], payloads: Sequence[bytes]
) -> bytes:
    """What survivors sign: who is in the sum, and the digest of what each of them sent."""
    digest = hashlib.sha256(f"{PROTOCOL}/survivors".encode("ascii") + binding.digest)
    for position, payload in zip(survivors, payloads, strict=True):
        digest.update(position.to_bytes(2, "big") + payload)
    return digest.digest()
