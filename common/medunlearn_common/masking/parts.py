"""The masking messages: what each exchange carries, as bytes and as values.

| kind | coordinator sends | site answers |
|---|---|---|
| mask_keys (set-up) | nothing | its key offer |
| mask_shares (set-up) | all offers | shares sealed to its neighbours |
| a release's own kind | :class:`Delivery` behind the request | the masked vector |
| mask_agree | :class:`Survivors` | signature, and its key offer for the next session |
| mask_open | :class:`Opening`: signatures, and the next session's offers | shares, and the next \
session's sealed shares |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from medunlearn_common.errors import Rejected
from medunlearn_common.masking.codec import Reader, Writer, bad_bytes
from medunlearn_common.masking.keys import KeyOffer
from medunlearn_common.masking.members import COUNT_BYTES, Members
from medunlearn_common.masking.parameters import MAX_SITES, PROTOCOL
from medunlearn_common.masking.shamir import SHARE_BYTES, check_share
from medunlearn_common.masking.sharing import SEALED_BYTES
from medunlearn_common.masking.signing import SIGNATURE_BYTES
from medunlearn_common.messages import Message

AGREE_CONTEXT = f"{PROTOCOL}/survivors"
DIGEST_BYTES = 32
SESSION, NEXT_SESSION, PART_BYTES = "mask_session", "mask_next", "mask_bytes"


def write_table(writer: Writer, rows: Mapping[int, bytes], size: int) -> Writer:
    """Position to bytes of one size, by position."""
    writer.number(len(rows), COUNT_BYTES)
    for position in sorted(rows):
        writer.number(position, COUNT_BYTES).fixed(rows[position], size)
    return writer


def read_table(reader: Reader, size: int) -> dict[int, bytes]:
    """Back from :func:`write_table`; positions must rise."""
    found: dict[int, bytes] = {}
    last = -1
    for _ in range(reader.number(COUNT_BYTES, most=MAX_SITES)):
        position = reader.number(COUNT_BYTES, most=MAX_SITES - 1)
        if position <= last:
            raise bad_bytes("positions do not rise")
        found[position] = reader.fixed(size)
        last = position
    return found


def sealed_to_bytes(sealed: Mapping[int, bytes]) -> bytes:
    """Sealed shares by recipient."""
    return write_table(Writer(), sealed, SEALED_BYTES).done()


def read_sealed(data: bytes) -> dict[int, bytes]:
    """Back from :func:`sealed_to_bytes`; raises Rejected MASKING_MESSAGE."""
    reader = Reader(data)
    found = read_table(reader, SEALED_BYTES)
    reader.end()
    return found


def read_offer(data: bytes) -> KeyOffer:
    """One offer and nothing else; raises Rejected MASKING_MESSAGE."""
    reader = Reader(data)
    offer = KeyOffer.read(reader)
    reader.end()
    return offer


def offer_to_bytes(offer: KeyOffer) -> bytes:
    """One offer."""
    writer = Writer()
    offer.write(writer)
    return writer.done()


@lru_cache(maxsize=8)
def read_members(data: bytes, *, run_id: str, session: str) -> Members:
    """All offers and nothing else; kept, as every step of a session needs them."""
    reader = Reader(data)
    members = Members.read(reader, run_id=run_id, session=session)
    reader.end()
    return members


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """Behind the request of a release: who masks, and what they sealed to this site."""

    participants: tuple[int, ...]
    sealed: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """As they travel."""
        writer = write_table(Writer(), dict.fromkeys(self.participants, b""), 0)
        return write_table(writer, self.sealed, SEALED_BYTES).done()

    @classmethod
    def from_bytes(cls, data: bytes) -> Delivery:
        """Raises Rejected MASKING_MESSAGE."""
        reader = Reader(data)
        participants = tuple(read_table(reader, 0))
        sealed = read_table(reader, SEALED_BYTES)
        reader.end()
        return cls(participants=participants, sealed=sealed)


def attach(request: Message, delivery: bytes, *, session: str) -> Message:
    """A release's request with the masking part behind its payload."""
    fields = {**request.fields, SESSION: session, PART_BYTES: len(delivery)}
    return replace(request, fields=fields, payload=request.payload + delivery)


def detach(request: Message) -> tuple[Message, bytes, str]:
    """The request alone, the masking part, and the session.

    Raises:
        Rejected: MASKING_MISSING if there is no masking part, MASKING_MESSAGE.
    """
    if SESSION not in request.fields or PART_BYTES not in request.fields:
        raise Rejected(
            "MASKING_MISSING", "a release was asked for without masking",
            "no coordinator or plan can switch masking off",
        )
    size = request.integer(PART_BYTES)
    if not 0 <= size <= len(request.payload):
        raise bad_bytes("its parts do not add up")
    start = len(request.payload) - size
    fields = {k: v for k, v in request.fields.items() if k not in (SESSION, PART_BYTES)}
    inner = replace(request, fields=fields, payload=request.payload[:start])
    return inner, request.payload[start:], request.text(SESSION)


@dataclass(frozen=True, kw_only=True)
class Survivors:
    """Who is in the sum: position to digest of the masked payload that arrived."""

    payloads: Mapping[int, bytes]

    def to_bytes(self) -> bytes:
        """As they travel."""
        return write_table(Writer(), self.payloads, DIGEST_BYTES).done()

    @classmethod
    def from_bytes(cls, data: bytes) -> Survivors:
        """Raises Rejected MASKING_MESSAGE."""
        reader = Reader(data)
        payloads = read_table(reader, DIGEST_BYTES)
        reader.end()
        return cls(payloads=payloads)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A survivor's signature, and its keys for the next session if they were asked for."""

    signature: bytes
    offer: KeyOffer | None

    def to_bytes(self) -> bytes:
        """As they travel."""
        head = Writer().fixed(self.signature, SIGNATURE_BYTES).done()
        return head if self.offer is None else head + offer_to_bytes(self.offer)

    @classmethod
    def from_bytes(cls, data: bytes) -> Agreement:
        """Raises Rejected MASKING_MESSAGE."""
        signature = Reader(data[:SIGNATURE_BYTES]).fixed(SIGNATURE_BYTES)
        rest = data[SIGNATURE_BYTES:]
        return cls(signature=signature, offer=read_offer(rest) if rest else None)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """All signatures, and the offers of the next session or nothing."""

    signatures: Mapping[int, bytes]
    next_members: bytes

    def to_bytes(self) -> bytes:
        """As they travel."""
        writer = write_table(Writer(), self.signatures, SIGNATURE_BYTES)
        return writer.done() + self.next_members

    @classmethod
    def from_bytes(cls, data: bytes) -> Opening:
        """Raises Rejected MASKING_MESSAGE."""
        reader = Reader(data)
        signatures = read_table(reader, SIGNATURE_BYTES)
        head = len(write_table(Writer(), signatures, SIGNATURE_BYTES).done())
        return cls(signatures=signatures, next_members=data[head:])


@dataclass(frozen=True, kw_only=True)
class Shares:
    """One share for each participant whose shares the site holds, and what it sealed next.

    Which secret a share is of follows from the survivor set that everybody signed: the
    self-mask seed of a survivor, the mask key of a site that dropped out.
    """

    shares: Mapping[int, bytes]
    sealed: bytes

    def to_bytes(self) -> bytes:
        """As they travel."""
        return write_table(Writer(), self.shares, SHARE_BYTES).done() + self.sealed

    @classmethod
    def from_bytes(cls, data: bytes) -> Shares:
        """Raises Rejected MASKING_MESSAGE or MASKING_SHARE."""
        reader = Reader(data)
        shares = read_table(reader, SHARE_BYTES)
        for share in shares.values():
            check_share(share)
        size = len(write_table(Writer(), shares, SHARE_BYTES).done())
        return cls(shares=shares, sealed=data[size:])
