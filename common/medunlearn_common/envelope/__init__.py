"""Signed envelopes around everything that parties send each other (docs/protocol.md)."""

from medunlearn_common.envelope.dsse import SignedBytes, open_signed, parse_signed, sign_bytes
from medunlearn_common.envelope.header import Direction, Expectation, Header
from medunlearn_common.envelope.sealing import (
    HELLO,
    SEALED,
    OpenedEnvelope,
    open_envelope,
    seal,
)
from medunlearn_common.envelope.store import EnvelopeStore, RunLock

__all__ = [
    "HELLO",
    "SEALED",
    "Direction",
    "EnvelopeStore",
    "Expectation",
    "Header",
    "OpenedEnvelope",
    "RunLock",
    "SignedBytes",
    "open_envelope",
    "open_signed",
    "parse_signed",
    "seal",
    "sign_bytes",
]
