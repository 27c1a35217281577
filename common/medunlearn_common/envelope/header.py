"""The signed header of an envelope, and what its receiver expects of it.

Every field that decides where a message may be used stands in here, under the signature, next
to the digest and the length of its content. A receiver writes down what it expects *before* it
looks, and refuses at the first difference.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from medunlearn_common.errors import Rejected
from medunlearn_common.strict_cbor import decode_map, encode

PROTOCOL_VERSION = 1
HEADER_TYPE = "application/vnd.medunlearn.envelope.v1+cbor"
CONTENT_TYPE = "application/vnd.medunlearn.message.v1"
MAX_HEADER_BYTES = 4096
NONCE_BYTES = 16
NO_DIGEST = bytes(32)
SKEW_S = 300

Direction = Literal["request", "answer", "refusal"]
_DIRECTIONS = ("request", "answer", "refusal")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PHASE = re.compile(r"[a-z][a-z0-9._/-]{0,63}")
_TEXTS = ("run", "phase", "direction", "sender", "recipient", "payload_type")
_DIGESTS = ("roster", "plan", "model", "support", "transcript", "digest")
_INTEGERS = ("version", "round", "length", "sequence", "issued", "expires")
MAX_ROUND = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Header:
    """What one envelope is.

    Attributes:
        version: Of the protocol.
        run: Name of the run.
        round: From 0; 0 for what belongs to no round.
        phase: Step of the protocol, with a part where one step has several (``step/support``).
        direction: ``request`` of a coordinator, ``answer`` or ``refusal`` of a site.
        sender: Party id; the signing key must be this party's.
        recipient: Party id; nobody else opens it.
        roster: Digest of the roster under which it was signed, 32 bytes, as all digests here.
        plan: Digest of the plan.
        model: Digest of the base model that the site named; zero before it did.
        support: Digest of the support; zero before there is one.
        transcript: Of an answer, the digest of the request's header; of a request, what the
            layer inside wants bound, else zero.
        payload_type: How to read the content.
        digest: SHA-256 of the content.
        length: Of the content, in bytes.
        sequence: Grows with every new envelope of this sender to this recipient in this run,
            counted apart for releases, for what may be restated, and for refusals.
        nonce: 128 bits.
        issued: Seconds since 1970 by the sender's clock.
        expires: Advice: sequence decides, clocks do not.
    """

    version: int = PROTOCOL_VERSION
    run: str
    round: int
    phase: str
    direction: Direction
    sender: str
    recipient: str
    roster: bytes
    plan: bytes
    model: bytes = NO_DIGEST
    support: bytes = NO_DIGEST
    transcript: bytes = NO_DIGEST
    payload_type: str = CONTENT_TYPE
    digest: bytes
    length: int
    sequence: int
    nonce: bytes
    issued: int
    expires: int

    def to_bytes(self) -> bytes:
        """Deterministic CBOR."""
        return encode({name: getattr(self, name) for name in HEADER_FIELDS})

    @classmethod
    def from_bytes(cls, data: bytes) -> Header:
        """Read a header whose signature held.

        Raises:
            Rejected: A CBOR_ code, HEADER_FIELD naming the field, PROTOCOL_VERSION.
        """
        found = decode_map(data, keys=frozenset(HEADER_FIELDS), max_bytes=MAX_HEADER_BYTES)
        for name in _INTEGERS:
            _require(isinstance(found[name], int) and not isinstance(found[name], bool)
                     and found[name] >= 0, name)
        if found["version"] != PROTOCOL_VERSION:
            raise Rejected(
                "PROTOCOL_VERSION", f"an envelope of protocol {found['version']}, not "
                f"{PROTOCOL_VERSION}", "use the same medunlearn version at every party",
            )
        for name in _TEXTS:
            _require(isinstance(found[name], str), name)
        for name in _DIGESTS:
            _require(_is_bytes(found[name], len(NO_DIGEST)), name)
        _require(_is_bytes(found["nonce"], NONCE_BYTES), "nonce")
        for name in ("run", "sender", "recipient"):
            _require(_NAME.fullmatch(found[name]) is not None, name)
        _require(_PHASE.fullmatch(found["phase"]) is not None, "phase")
        _require(found["direction"] in _DIRECTIONS, "direction")
        _require(found["round"] <= MAX_ROUND, "round")
        _require(found["payload_type"] == CONTENT_TYPE, "payload_type")
        _require(found["issued"] <= found["expires"], "expires")
        return cls(**found)


HEADER_FIELDS = tuple(field.name for field in fields(Header))


def says_the_same(kept: Header, other: Header) -> bool:
    """Whether two headers differ at most in what each sealing draws: number, nonce, times."""
    return kept == replace(other, sequence=kept.sequence, nonce=kept.nonce, issued=kept.issued,
                           expires=kept.expires)


def is_readdressed(kept: Header, other: Header) -> bool:
    """Whether two headers say the same under two rosters.

    The roster may change while a request waits, and under the next one nobody takes it as it
    was sealed. An answer then belongs to the request as it was addressed anew, and names that.
    """
    if other.roster == kept.roster:
        return False
    if other.direction == "answer":
        if other.transcript == kept.transcript:  # one request is of one roster
            return False
        other = replace(other, transcript=kept.transcript)
    return says_the_same(kept, replace(other, roster=kept.roster))


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a receiver waits for; None leaves a field open. Checked in this order.

    Attributes:
        recipient: Who the receiver is.
        direction: Which way.
        sender: Who is expected to speak.
        run: The run.
        roster: The roster in force.
        plan: The plan that was accepted.
        phase: The step.
        round: The round.
        model: The base model the site named.
        support: The run's support.
        transcript: The request that an answer must belong to.
    """

    recipient: str
    direction: tuple[Direction, ...]
    sender: str | None = None
    run: str | None = None
    roster: bytes | None = None
    plan: bytes | None = None
    phase: str | None = None
    round: int | None = None
    model: bytes | None = None
    support: bytes | None = None
    transcript: bytes | None = None

    def require(self, header: Header) -> None:
        """Refuse a header that differs.

        Raises:
            Rejected: RECIPIENT_, DIRECTION_, SENDER_, RUN_, ROSTER_, PLAN_, PHASE_, ROUND_,
                MODEL_, SUPPORT_ or TRANSCRIPT_MISMATCH, showing both.
        """
        for field in fields(self):
            expected = getattr(self, field.name)
            found = getattr(header, field.name)
            same = found in expected if field.name == "direction" else found == expected
            if expected is not None and not same:
                raise Rejected(
                    f"{field.name.upper()}_MISMATCH",
                    f"the {field.name} of an envelope is {_shown(found)}, expected "
                    f"{_shown(expected)}",
                    "it belongs to another place of the protocol, or was replayed",
                )


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex()[:12]
    return " or ".join(value) if isinstance(value, tuple) else f"{value!a}"


def _is_bytes(value: Any, length: int) -> bool:
    return isinstance(value, bytes) and len(value) == length


def _require(holds: bool, name: str) -> None:
    if not holds:
        raise Rejected(
            "HEADER_FIELD", f"the field {name} of an envelope's header is malformed",
            "use the same medunlearn version at every party",
        )
