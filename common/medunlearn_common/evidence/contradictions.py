"""Two signed statements of one party that cannot both be honest.

| kind | the two statements | proven by |
|---|---|---|
| envelopes | headers of two messages in one place of the protocol | both signatures: a party signs one header in a place, and the same one anew under a later roster |
| logs | states of a log | one size and two roots, or two logs of one run |

A log's state that is merely older proves nothing by itself: its keeper signed it when it was
new. It is kept and shown, and :func:`proven` says so.
"""  # noqa: E501

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from medunlearn_common.audit.checkpoints import SignedCheckpoint
from medunlearn_common.audit.signing import CHECKPOINT_CONTEXT
from medunlearn_common.audit.witness import evidence_in
from medunlearn_common.digests import canonical_json
from medunlearn_common.envelope.dsse import open_signed, parse_signed
from medunlearn_common.envelope.header import HEADER_TYPE, Header, is_readdressed
from medunlearn_common.envelope.store import EnvelopeStore, is_restated
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.roster import Roster
from medunlearn_common.trust_folder import STORE_FILE, TRUST_FOLDER

AUDIT_FILE = "audit.db"
MAX_BYTES = 16 << 20
_HINT = "nobody is accused by it; ask whoever gave it to you for the whole file"
Kind = Literal["envelopes", "logs"]


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """Two signed statements, as they came.

    Attributes:
        kind: What they are.
        kept: The one that was accepted: base64 of a signed header, or a log's note.
        other: The one that came later.
    """

    kind: Kind
    kept: str
    other: str


def collected(folder: Path) -> tuple[Contradiction, ...]:
    """Everything that a party has found out, from its folder.

    Raises:
        Misconfigured: EVIDENCE_NO_PARTY if the folder has no record of messages.
        Transient: ENVELOPE_STORE or AUDIT_UNAVAILABLE.
    """
    record = folder / TRUST_FOLDER / STORE_FILE
    if not record.is_file():
        raise Misconfigured(
            "EVIDENCE_NO_PARTY", f"{folder.name} holds no record of messages",
            f"name the folder of a site or a coordinator; its {TRUST_FOLDER}/ is read",
        )
    with closing(EnvelopeStore(record)) as store:
        found = [
            Contradiction(kind="envelopes", kept=_text(one.kept), other=_text(one.other))
            for one in store.equivocations()
        ]
    if (folder / AUDIT_FILE).is_file():
        found += [
            Contradiction(kind="logs", kept=kept.to_text(), other=offered.to_text())
            for _, kept, offered in evidence_in(folder / AUDIT_FILE)
        ]
    return tuple(found)


def proven(one: Contradiction, roster: Roster) -> str:
    """Who said what twice, in words.

    Raises:
        Rejected: EVIDENCE_PROVES_NOTHING, EVIDENCE_MALFORMED, or the code of a signature or
            key that is not good. A key that expired since still proves; a revoked one does not.
    """
    return (_envelopes if one.kind == "envelopes" else _logs)(one, roster)


def _envelopes(one: Contradiction, roster: Roster) -> str:
    first, second = (_header(text, roster) for text in (one.kept, one.other))
    places = [
        (h.run, h.round, h.phase, h.direction, h.sender, h.recipient) for h in (first, second)
    ]
    if places[0] != places[1] or first == second:
        raise _nothing("the two messages are of different places, or the same")
    if first.direction == "refusal" or (is_restated(first) and first.direction == "answer"):
        raise _nothing("a refusal, or a statement about oneself, may be given anew")
    if is_readdressed(first, second):
        raise _nothing("one thing was said under two rosters, as is right when the roster changes")
    return (f"{first.sender} signed two {first.direction}s for {first.phase} of round "
            f"{first.round} in run {first.run}, to {first.recipient}")


def _header(text: str, roster: Roster) -> Header:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise _malformed() from None
    party: list[str] = []

    def key_of(key: str) -> bytes:
        party_id, public_key = _party_of_key(roster, key)
        party.append(party_id)
        return public_key

    _, payload = open_signed(parse_signed(data), payload_type=HEADER_TYPE, key_of=key_of)
    header = Header.from_bytes(payload)
    if [header.sender] != party:
        raise Rejected("SENDER_KEY", "a message is not signed by the party it names", _HINT)
    return header


def _party_of_key(roster: Roster, key: str) -> tuple[str, bytes]:
    """As of the time at which the key was good."""
    since = next((p.valid_from for p in roster.parties if p.key_id == key), 0)
    return roster.party_of_key(key, now=float(since))


def _logs(one: Contradiction, roster: Roster) -> str:
    first, second = (SignedCheckpoint.from_text(text) for text in (one.kept, one.other))
    for signed in (first, second):
        signed.require_signature(roster, by=first.signer, context=CHECKPOINT_CONTEXT)
    a, b = first.checkpoint, second.checkpoint
    if a.origin == b.origin and a.size == b.size and a.root != b.root:
        return f"{first.signer} signed two states of {a.origin} with {a.size} records"
    # party/run/key: a run has one log
    if a.origin != b.origin and a.origin.split("/")[:2] == b.origin.split("/")[:2]:
        return f"{first.signer} signed two logs of one run: {a.origin} and {b.origin}"
    raise _nothing("an older state of a log may have been signed when it was new")


def to_bytes(found: Sequence[Contradiction]) -> bytes:
    """As a document."""
    return canonical_json({"schema": 1, "contradictions": [asdict(one) for one in found]})


def from_bytes(data: bytes) -> tuple[Contradiction, ...]:
    """Back from :func:`to_bytes`; nothing is verified.

    Raises:
        Rejected: EVIDENCE_MALFORMED.
    """
    if len(data) > MAX_BYTES:
        raise _malformed()
    try:
        document: Any = json.loads(data)
        found = tuple(Contradiction(**entry) for entry in document["contradictions"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _malformed() from None
    for one in found:
        if one.kind not in ("envelopes", "logs") or not isinstance(one.kept, str) or (
            not isinstance(one.other, str)
        ):
            raise _malformed()
    if to_bytes(found) != data:
        raise _malformed()
    return found


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _nothing(why: str) -> Rejected:
    return Rejected("EVIDENCE_PROVES_NOTHING", f"no contradiction: {why}", _HINT)


def _malformed() -> Rejected:
    return Rejected("EVIDENCE_MALFORMED", "a file of evidence cannot be read", _HINT)
