"""One masked sum at the coordinator, up to the survivor set: pure values, no clock, no I/O.

Rules:
1. A session's members are the sites whose checked key offers arrived.
2. Its participants are the members whose sealed shares arrived, for exactly their neighbours.
3. Only participants' masked vectors are added, each once; who sent one is a survivor.
4. The survivor set is fixed with at least max(policy, t) survivors, and then never changes.
Nothing here sees an unmasked vector: the running sum is masked until ``opening`` is done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from medunlearn_common.errors import Rejected
from medunlearn_common.masking.binding import Binding, survivors_digest
from medunlearn_common.masking.codec import Reader, Writer
from medunlearn_common.masking.keys import KeyOffer
from medunlearn_common.masking.members import COUNT_BYTES, Members
from medunlearn_common.masking.parameters import MAX_SITES
from medunlearn_common.masking.parts import Delivery, Survivors, read_table, write_table
from medunlearn_common.masking.sharing import SEALED_BYTES
from medunlearn_common.masking.signing import Verifier
from medunlearn_common.ring import RingVector
from medunlearn_common.updates import WIRE_DTYPE


def checked_offer(
    offer: KeyOffer, *, site_id: str, run_id: str, session: str, verifier: Verifier | None
) -> KeyOffer:
    """A site's offer that names the site itself and bears its signature.

    Raises:
        Rejected: SITE_MISMATCH, MASKING_KEY_LOW_ORDER, MASKING_KEY_TWICE, or the verifier's
            code; without a verifier the signature is left to the other sites.
    """
    if offer.site_id != site_id:
        raise Rejected("SITE_MISMATCH", f"keys for {site_id} name another site",
                       "give every hospital its own site_id")
    offer.check(verifier or _NoVerifier(), run_id=run_id, session=session)
    return offer


class _NoVerifier:
    def verify(self, party_id: str, context: str, message: bytes, signature: bytes) -> None:
        """Sites check each other's signatures; the coordinator has no roster."""


def without_duplicates(offers: Mapping[str, KeyOffer]) -> dict[str, KeyOffer]:
    """Leave out every site that offers a key which another site offers too."""
    owners: dict[bytes, set[str]] = {}
    for site, offer in offers.items():
        for key in (offer.sealing_key, offer.mask_key):
            owners.setdefault(key, set()).add(site)
    guilty = {site for sites in owners.values() if len(sites) > 1 for site in sites}
    return {site: offer for site, offer in offers.items() if site not in guilty}


@dataclass(frozen=True, kw_only=True)
class Session:
    """A session that is set up: who may mask, and the shares that wait for delivery.

    Attributes:
        members: All sites with keys.
        sealed: Participant's position to its sealed shares by recipient.
    """

    members: Members
    sealed: Mapping[int, Mapping[int, bytes]] = field(repr=False)

    @property
    def participants(self) -> tuple[int, ...]:
        """Positions that may mask, sorted."""
        return tuple(sorted(self.sealed))

    @property
    def sites(self) -> tuple[str, ...]:
        """Their site ids."""
        return tuple(self.members.names[p] for p in self.participants)

    def delivery(self, site: str) -> bytes:
        """What one participant gets with the request of a release."""
        position = self.members.positions[site]
        taking_part = set(self.sealed)
        return Delivery(
            participants=self.participants,
            sealed={
                other: self.sealed[other][position]
                for other in self.members.neighbours(position) if other in taking_part
            },
        ).to_bytes()

    def to_bytes(self) -> bytes:
        """For the run's checkpoint."""
        writer = Writer().fixed(self.members.to_bytes(), len(self.members.to_bytes()))
        writer.number(len(self.sealed), COUNT_BYTES)
        for position in self.participants:
            write_table(writer.number(position, COUNT_BYTES), self.sealed[position], SEALED_BYTES)
        return writer.done()

    @classmethod
    def from_bytes(cls, data: bytes, *, run_id: str, session: str) -> Session:
        """Back from :meth:`to_bytes`; raises Rejected MASKING_MESSAGE."""
        reader = Reader(data, most=len(data))
        members = Members.read(reader, run_id=run_id, session=session)
        sealed = {}
        for _ in range(reader.number(COUNT_BYTES, most=MAX_SITES)):
            position = reader.number(COUNT_BYTES, most=len(members.names) - 1)
            sealed[position] = read_table(reader, SEALED_BYTES)
        reader.end()
        return cls(members=members, sealed=sealed)


def check_sealed(members: Members, sealed: Mapping[int, bytes], position: int) -> None:
    """Refuse sealed shares that are not for exactly the neighbours.

    Raises:
        Rejected: MASKING_SHARES.
    """
    if tuple(sealed) != members.neighbours(position):
        raise Rejected(
            "MASKING_SHARES", f"{members.names[position]} did not seal to its neighbours",
            "use the same medunlearn version at every site",
        )


def form_session(
    members: Members, sealed: Mapping[str, Mapping[int, bytes]]
) -> Session:
    """A session of the members whose sealed shares arrived.

    Raises:
        Rejected: MASKING_SHARES.
    """
    by_position = {}
    for site, shares in sealed.items():
        position = members.positions[site]
        check_sealed(members, shares, position)
        by_position[position] = dict(shares)
    return Session(members=members, sealed=by_position)


class Collecting:
    """The masked vectors of one attempt, summed as they come."""

    def __init__(self, session: Session, binding: Binding, *, least: int) -> None:
        self._session = session
        self._binding = binding
        self._least = least
        self._payloads: dict[int, bytes] = {}
        self._sum: RingVector | None = None

    @property
    def enough(self) -> bool:
        """Whether the survivor set may be fixed."""
        return len(self._payloads) >= self._least

    @property
    def sites(self) -> tuple[str, ...]:
        """Who sent a vector, by position."""
        return tuple(self._session.members.names[p] for p in sorted(self._payloads))

    def add(self, site: str, vector: RingVector) -> None:
        """Add one participant's masked vector.

        Raises:
            Rejected: MASKING_PARTICIPANTS, UPDATE_SHAPES_DIFFER.
        """
        position = self._session.members.positions.get(site, -1)
        if position not in self._session.sealed or position in self._payloads:
            raise Rejected(
                "MASKING_PARTICIPANTS", f"{site} is no participant, or sent two vectors",
                "report this: it is a defect",
            )
        if self._sum is not None and self._sum.shape != vector.shape:
            raise Rejected("UPDATE_SHAPES_DIFFER", "vectors of different lengths",
                           "check that all sites use the same support")
        payload = np.ascontiguousarray(vector, dtype=WIRE_DTYPE)
        self._payloads[position] = hashlib.sha256(payload.data).digest()
        if self._sum is None:
            self._sum = np.zeros_like(vector)
        np.add(self._sum, vector, out=self._sum)

    def cut(self) -> Cut:
        """Fix the survivor set; who comes later has dropped out.

        Raises:
            Rejected: MASKING_TOO_FEW_SITES.
        """
        if not self.enough or self._sum is None:
            raise Rejected(
                "MASKING_TOO_FEW_SITES",
                f"{len(self._payloads)} masked vectors where {self._least} are needed",
                "begin another session",
            )
        survivors = {p: self._payloads[p] for p in sorted(self._payloads)}
        return Cut(
            binding=self._binding, survivors=Survivors(payloads=survivors), masked_sum=self._sum
        )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A fixed survivor set and the masked sum over it.

    Attributes:
        binding: What the attempt belongs to.
        survivors: Position to digest of the masked payload.
        masked_sum: Shape ``(k,)``; random until it is opened.
    """

    binding: Binding
    survivors: Survivors
    masked_sum: RingVector

    @property
    def sites(self) -> tuple[str, ...]:
        """Ids of the survivors."""
        names = self.binding.members.names
        return tuple(names[position] for position in self.survivors.payloads)

    @property
    def digest(self) -> bytes:
        """What every survivor signs."""
        payloads = self.survivors.payloads
        return survivors_digest(self.binding, tuple(payloads), list(payloads.values()))
