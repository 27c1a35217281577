"""The roster's content: parties, revoked keys, and the root that signs the next one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, cast

from medunlearn_common.errors import Rejected
from medunlearn_common.identity.keys import (
    SIGNATURE_BYTES,
    SigningIdentity,
    key_id,
    require_sound_key,
    verify_signature,
)
from medunlearn_common.naming import NAME, is_entity
from medunlearn_common.strict_cbor import decode_map, encode, require_keys

ROSTER_TYPE = "application/vnd.medunlearn.roster.v1+cbor"
POSSESSION = "application/vnd.medunlearn.enrolment.v1+cbor"
ROTATION = "application/vnd.medunlearn.rotation.v1+cbor"
MAX_ROSTER_BYTES = 4 << 20
SKEW_S = 300
Role = Literal["site", "coordinator"]
_ROLES = ("site", "coordinator")


@dataclass(frozen=True, kw_only=True)
class Party:
    """One party with its key.

    Attributes:
        party_id: Name in the protocol.
        role: ``site`` or ``coordinator``.
        entity: The legal entity behind it.
        public_key: Ed25519, 32 bytes.
        valid_from: Seconds since 1970.
        valid_until: Seconds since 1970.
        possession: The key's own signature on this entry: nobody enrols another's key.
        rotation: Signature of the key before it on this entry; empty for a first key.
    """

    party_id: str
    role: Role
    entity: str
    public_key: bytes
    valid_from: int
    valid_until: int
    possession: bytes = b""
    rotation: bytes = b""

    def __post_init__(self) -> None:
        good = (
            NAME.fullmatch(self.party_id) is not None and self.role in _ROLES
            and is_entity(self.entity)
            and 0 <= self.valid_from < self.valid_until
            and all(len(s) in (0, SIGNATURE_BYTES) for s in (self.possession, self.rotation))
        )
        if not good:
            raise _malformed("a party's entry")
        require_sound_key(self.public_key)

    @property
    def key_id(self) -> str:
        """See :func:`medunlearn_common.identity.key_id`."""
        return key_id(self.public_key)

    @property
    def statement(self) -> bytes:
        """What possession and rotation sign: everything but the two signatures."""
        return encode({name: getattr(self, name) for name in _PARTY_FIELDS[:-2]})

    def require_possession(self) -> None:
        """Raises SIGNATURE_INVALID unless the key signed its own entry."""
        verify_signature(self.public_key, POSSESSION, self.statement, self.possession)


_PARTY_FIELDS = ("party_id", "role", "entity", "public_key", "valid_from", "valid_until",
                 "possession", "rotation")


def enrolment_request(
    identity: SigningIdentity, *, role: Role, entity: str, valid_from: int, valid_until: int,
    old: SigningIdentity | None = None,
) -> Party:
    """A party's entry, signed by its own key and, on rotation, by the key before it."""
    values: dict[str, Any] = {
        "party_id": identity.party_id, "role": role, "entity": entity,
        "public_key": identity.public_key, "valid_from": valid_from, "valid_until": valid_until,
    }
    statement = Party(**values).statement
    return Party(
        **values, possession=identity.sign(POSSESSION, statement),
        rotation=old.sign(ROTATION, statement) if old is not None else b"",
    )


@dataclass(frozen=True, kw_only=True)
class Root:
    """The consortium's offline keys: ``threshold`` of them must sign a roster."""

    threshold: int
    keys: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 1 <= self.threshold <= len(self.keys) or list(self.keys) != sorted(set(self.keys)):
            raise _malformed("the root")
        for key in self.keys:
            require_sound_key(key)

    def to_bytes(self) -> bytes:
        """As a file of its own: what is pinned at a site's first start."""
        return encode({"threshold": self.threshold, "keys": list(self.keys)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Root:
        """Back from :meth:`to_bytes`; raises ROSTER_FORM or a CBOR_ code."""
        return _root(decode_map(data, keys=_ROOT_KEYS, max_bytes=1 << 16))


@dataclass(frozen=True, kw_only=True)
class Roster:
    """One version of the roster.

    Attributes:
        version: Grows by any step; never shrinks at a party that has seen it.
        issued: Seconds since 1970.
        expires: After this nobody uses it: a withheld successor is noticed.
        parties: By party id.
        revoked: Key ids that are no longer good, whatever else is said.
        root: Who signs the next version, and this one.
    """

    version: int
    issued: int
    expires: int
    parties: tuple[Party, ...]
    revoked: tuple[str, ...] = ()
    root: Root
    _by_key: Mapping[str, Party] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ids = [party.party_id for party in self.parties]
        keys = [party.key_id for party in self.parties]
        if self.version < 1 or not 0 <= self.issued < self.expires:
            raise _malformed("version or validity")
        if ids != sorted(set(ids)) or len(set(keys)) != len(keys):
            raise _malformed("the list of parties: ids sorted, ids and keys each once")
        if list(self.revoked) != sorted(set(self.revoked)):
            raise _malformed("the list of revoked keys")
        object.__setattr__(self, "_by_key", dict(zip(keys, self.parties, strict=True)))

    def to_bytes(self) -> bytes:
        """Deterministic CBOR: what the root signs."""
        return encode({
            "version": self.version, "issued": self.issued, "expires": self.expires,
            "parties": [{n: getattr(p, n) for n in _PARTY_FIELDS} for p in self.parties],
            "revoked": [bytes.fromhex(key) for key in self.revoked],
            "root": {"threshold": self.root.threshold, "keys": list(self.root.keys)},
        })

    @classmethod
    def from_bytes(cls, data: bytes) -> Roster:
        """Back from :meth:`to_bytes`.

        Raises:
            Rejected: ROSTER_FORM, KEY_INVALID, a CBOR_ code.
        """
        found = decode_map(data, keys=_ROSTER_KEYS, max_bytes=MAX_ROSTER_BYTES)
        parties, revoked = found["parties"], found["revoked"]
        _require_types(found, _ROSTER_TYPES, "the roster")
        if not all(isinstance(key, bytes) and len(key) == 32 for key in revoked):
            raise _malformed("the list of revoked keys")
        return cls(
            version=found["version"], issued=found["issued"], expires=found["expires"],
            parties=tuple(_party(entry) for entry in parties),
            revoked=tuple(key.hex() for key in revoked),
            root=_root(require_keys(found["root"], keys=_ROOT_KEYS, what="the root")),
        )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of :meth:`to_bytes`, 32 bytes: named in every envelope."""
        return hashlib.sha256(self.to_bytes()).digest()

    @property
    def sites(self) -> tuple[str, ...]:
        """Ids of the sites, sorted."""
        return tuple(party.party_id for party in self.parties if party.role == "site")

    def names(self, party_id: str, *, key_id: str) -> bool:
        """Whether this very key is the party's."""
        party = self._by_key.get(key_id)
        return party is not None and party.party_id == party_id

    def party(self, party_id: str) -> Party:
        """The entry of a party; raises PARTY_UNKNOWN."""
        for party in self.parties:
            if party.party_id == party_id:
                return party
        raise Rejected("PARTY_UNKNOWN", f"{party_id} is not in roster {self.version}",
                       "ask the consortium to add it: medunlearn roster add")

    def party_of_key(self, key: str, *, now: float) -> tuple[str, bytes]:
        """Party id and public key of a key that is good now.

        Raises:
            Rejected: KEY_REVOKED, KEY_UNKNOWN, KEY_EXPIRED, ROSTER_EXPIRED.
        """
        if key in self.revoked:
            raise Rejected("KEY_REVOKED", f"key {key[:16]} was revoked",
                           "the party enrols a new key")
        party = self._by_key.get(key)
        if party is None:
            raise Rejected("KEY_UNKNOWN", f"key {key[:16]} is not in roster {self.version}",
                           "bring the newest roster to every party")
        if not party.valid_from - SKEW_S <= now <= party.valid_until + SKEW_S:
            raise Rejected("KEY_EXPIRED", f"the key of {party.party_id} is not valid now",
                           "its party makes a new one: medunlearn hospital rotate, medunlearn "
                           "coordinator rotate, or for keys of no folder medunlearn keys rotate")
        if now > self.expires + SKEW_S:
            raise Rejected("ROSTER_EXPIRED", f"roster {self.version} has expired",
                           "ask the consortium for the next version")
        return party.party_id, party.public_key

    def verify(
        self, party_id: str, context: str, message: bytes, signature: bytes, *,
        now: float | None = None,
    ) -> None:
        """Check a party's signature.

        Args:
            party_id: Whose signature it should be.
            context: Under which it was given.
            message: What was signed.
            signature: 64 bytes.
            now: Also check that the key is valid at this time.

        Raises:
            Rejected: PARTY_UNKNOWN, KEY_REVOKED, KEY_EXPIRED, SIGNATURE_INVALID.
        """
        party = self.party(party_id)
        moment = now if now is not None else float(party.valid_from)
        self.party_of_key(party.key_id, now=moment)
        verify_signature(party.public_key, context, message, signature)


_ROSTER_TYPES: Mapping[str, type] = {
    "version": int, "issued": int, "expires": int, "parties": list, "revoked": list,
}
_ROSTER_KEYS = frozenset((*_ROSTER_TYPES, "root"))
_ROOT_KEYS = frozenset(("threshold", "keys"))
_PARTY_TYPES: Mapping[str, type] = {
    "party_id": str, "role": str, "entity": str, "public_key": bytes, "valid_from": int,
    "valid_until": int, "possession": bytes, "rotation": bytes,
}


def party_to_bytes(party: Party) -> bytes:
    """An entry as a file of its own: what a party hands to the consortium."""
    return encode({name: getattr(party, name) for name in _PARTY_FIELDS})


def party_from_bytes(data: bytes) -> Party:
    """Back from :func:`party_to_bytes`, with its possession checked."""
    party = _party(decode_map(data, keys=frozenset(_PARTY_FIELDS), max_bytes=1 << 16))
    party.require_possession()
    return party


def _party(entry: Any) -> Party:
    found = require_keys(entry, keys=frozenset(_PARTY_FIELDS), what="a party")
    _require_types(found, _PARTY_TYPES, "a party's entry")
    return Party(**{**found, "role": cast(Role, found["role"])})


def _root(found: Mapping[str, Any]) -> Root:
    _require_types(found, {"threshold": int, "keys": list}, "the root")
    if not all(isinstance(key, bytes) for key in found["keys"]):
        raise _malformed("the root")
    return Root(threshold=found["threshold"], keys=tuple(found["keys"]))


def _require_types(found: Mapping[str, Any], types: Mapping[str, type], what: str) -> None:
    for name, kind in types.items():
        if not isinstance(found[name], kind) or isinstance(found[name], bool):
            raise _malformed(what)


def _malformed(what: str) -> Rejected:
    return Rejected("ROSTER_FORM", f"{what} is malformed",
                    "use the same medunlearn version as the consortium")
