"""The sites of one session in one order, their keys, and who neighbours whom."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from medunlearn_common.errors import Rejected
from medunlearn_common.masking.codec import Reader, Writer, bad_bytes
from medunlearn_common.masking.graph import neighbour_lists
from medunlearn_common.masking.keys import KeyOffer, check_public_key
from medunlearn_common.masking.parameters import (
    MAX_SITES,
    MIN_SITES,
    PROTOCOL,
    Neighbourhood,
    least_sites,
    neighbourhood,
    quorum,
)

COUNT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Members:
    """All sites that offered keys for one session.

    A site's position in :attr:`offers`, which are sorted by site id, names it in messages;
    position + 1 is the point at which it holds shares.

    Attributes:
        run_id: The run.
        session: Name of the session within the run.
        sites: Of the plan; thresholds are shares of them.
        offers: By site id.
    """

    run_id: str
    session: str
    sites: int
    offers: tuple[KeyOffer, ...]

    def __post_init__(self) -> None:
        names = [offer.site_id for offer in self.offers]
        if not MIN_SITES <= self.sites <= MAX_SITES or len(names) > self.sites:
            raise bad_bytes(f"{len(names)} members of {self.sites} sites")
        if len(names) < least_sites(self.sites):
            raise Rejected(
                "MASKING_TOO_FEW_SITES",
                f"keys of {len(names)} sites, where {least_sites(self.sites)} of {self.sites} are "
                "needed", "wait until enough sites are there",
            )
        if names != sorted(set(names)):
            raise bad_bytes("sites are not named once each and in order")
        keys = [key for offer in self.offers for key in (offer.sealing_key, offer.mask_key)]
        if len(set(keys)) != len(keys):
            raise Rejected(
                "MASKING_KEY_TWICE", "two keys of a session are the same",
                "a site sent another's key, or one key twice; leave it out of the run",
            )
        for key in keys:
            check_public_key(key)

    @classmethod
    def of(
        cls, offers: Sequence[KeyOffer], *, run_id: str, session: str, sites: int
    ) -> Members:
        """In the order of site ids."""
        ordered = tuple(sorted(offers, key=lambda offer: offer.site_id))
        return cls(run_id=run_id, session=session, sites=sites, offers=ordered)

    def to_bytes(self) -> bytes:
        """The plan's sites and the offers, as every site gets them."""
        writer = Writer().number(self.sites, COUNT_BYTES).number(len(self.offers), COUNT_BYTES)
        for offer in self.offers:
            offer.write(writer)
        return writer.done()

    @classmethod
    def read(cls, reader: Reader, *, run_id: str, session: str) -> Members:
        """Read the offers; raises Rejected MASKING_MESSAGE, _KEY_* or _TOO_FEW_SITES."""
        sites = reader.number(COUNT_BYTES, most=MAX_SITES)
        count = reader.number(COUNT_BYTES, most=sites)
        offers = tuple(KeyOffer.read(reader) for _ in range(count))
        return cls(run_id=run_id, session=session, sites=sites, offers=offers)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Site ids by position."""
        return tuple(offer.site_id for offer in self.offers)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Position by site id."""
        return {name: position for position, name in enumerate(self.names)}

    @cached_property
    def transcript(self) -> bytes:
        """Digest of run, session, the plan's sites and every key: all must agree on it."""
        digest = hashlib.sha256(f"{PROTOCOL}/transcript".encode("ascii"))
        for part in (self.run_id.encode("utf-8"), self.session.encode("utf-8"), self.to_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.digest()

    @property
    def shape(self) -> Neighbourhood:
        """Neighbours and threshold."""
        return neighbourhood(len(self.offers), self.sites)

    @property
    def quorum(self) -> int:
        """Signatures needed before anything is opened."""
        return quorum(self.sites)

    def neighbours(self, position: int) -> tuple[int, ...]:
        """Positions with which one site masks, sorted."""
        graph = neighbour_lists(len(self.offers), self.shape.neighbours, self.transcript)
        return graph[position]

    def holders(self, position: int) -> tuple[int, ...]:
        """Positions that hold shares of one site: itself and its neighbours, sorted."""
        return tuple(sorted((position, *self.neighbours(position))))
