"""The parsers of masking's own messages: fixed fields, one spelling each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

_TRUST = Path(__file__).resolve().parents[1] / "trust"
if str(_TRUST) not in sys.path:
    sys.path.append(str(_TRUST))

from trust_lab import SITES, key  # noqa: E402

from medunlearn_common.masking.keys import KeyOffer, SessionSecrets  # noqa: E402
from medunlearn_common.masking.members import Members  # noqa: E402
from medunlearn_common.masking.parts import (  # noqa: E402
    Agreement,
    Delivery,
    Opening,
    Shares,
    Survivors,
    offer_to_bytes,
    read_members,
    read_offer,
    read_sealed,
    sealed_to_bytes,
)
from medunlearn_common.masking.sharing import seal_shares, share_out  # noqa: E402
from medunlearn_server.masking.session import Session, form_session  # noqa: E402

Read = Callable[[bytes], object]
RUN, SESSION = "run-1", "round-0"
SECRETS = {name: SessionSecrets(root=name.encode().ljust(32, b"\0")) for name in SITES}


def _offer(name: str) -> KeyOffer:
    return SECRETS[name].offer(key(name), run_id=RUN, session=SESSION, site_id=name)


MEMBERS = Members.of(
    [_offer(name) for name in SITES], run_id=RUN, session=SESSION, sites=len(SITES))
SEALED = {name: seal_shares(SECRETS[name], MEMBERS, at) for at, name in enumerate(SITES)}
FORMED = form_session(MEMBERS, SEALED)
SHARES = {at: pair.self_seed for at, pair in share_out(SECRETS[SITES[0]], MEMBERS, 0).items()}
SIGNATURES = {at: bytes(64) for at in range(len(SITES))}


def _members(data: bytes) -> None:
    read_members.cache_clear()  # it keeps what it read
    members = read_members(data, run_id=RUN, session=SESSION)
    assert members.to_bytes() == data
    assert all(len(members.neighbours(at)) for at in range(len(members.names)))


def _session(data: bytes) -> None:
    session = Session.from_bytes(data, run_id=RUN, session=SESSION)
    assert session.participants == tuple(sorted(session.sealed))


def _same(read: Callable[[bytes], Delivery | Survivors | Agreement | Opening | Shares]) -> Read:
    def read_and_write(data: bytes) -> None:
        assert read(data).to_bytes() == data

    return read_and_write


def _key_offer(data: bytes) -> None:
    assert offer_to_bytes(read_offer(data)) == data


def _sealed(data: bytes) -> None:
    assert sealed_to_bytes(read_sealed(data)) == data


MASKING: dict[str, tuple[Read, bytes]] = {
    "masking keys": (_key_offer, offer_to_bytes(MEMBERS.offers[0])),
    "masking members": (_members, MEMBERS.to_bytes()),
    "masking sealed": (_sealed, sealed_to_bytes(SEALED[SITES[0]])),
    "masking delivery": (_same(Delivery.from_bytes), FORMED.delivery(SITES[0])),
    "masking survivors": (
        _same(Survivors.from_bytes),
        Survivors(payloads={at: bytes(32) for at in range(3)}).to_bytes()),
    "masking agreement": (
        _same(Agreement.from_bytes),
        Agreement(signature=bytes(64), offer=MEMBERS.offers[0]).to_bytes()),
    "masking opening": (
        _same(Opening.from_bytes),
        Opening(signatures=SIGNATURES, next_members=MEMBERS.to_bytes()).to_bytes()),
    "masking shares": (
        _same(Shares.from_bytes),
        Shares(shares=SHARES, sealed=sealed_to_bytes(SEALED[SITES[0]])).to_bytes()),
    "masking session": (_session, FORMED.to_bytes()),
}
"""Name to what reads, and to whole bytes."""
