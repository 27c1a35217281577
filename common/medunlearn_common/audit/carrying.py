"""How a log's head travels with a request, and a witness's signature with the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from medunlearn_common.audit.checkpoints import SignedCheckpoint
from medunlearn_common.audit.merkle import HASH_BYTES
from medunlearn_common.errors import Rejected
from medunlearn_common.messages import Message

HEAD_FIELD, LEAVES_FIELD = "audit_head", "audit_leaves"
COSIGNATURE_FIELD = "audit_cosignature"
MAX_LEAVES = 100_000


def with_head(request: Message, head: SignedCheckpoint, leaves: Sequence[bytes]) -> Message:
    """The request with the signed head and all leaf hashes under it."""
    carried = {HEAD_FIELD: head.to_text(), LEAVES_FIELD: b"".join(leaves).hex()}
    return replace(request, fields={**request.fields, **carried})


def without_head(
    request: Message,
) -> tuple[Message, tuple[SignedCheckpoint, tuple[bytes, ...]] | None]:
    """The request as it was before :func:`with_head`, and what it carried; None if nothing.

    Raises:
        Rejected: CHECKPOINT_MALFORMED.
    """
    fields = dict(request.fields)
    head, leaves = fields.pop(HEAD_FIELD, None), fields.pop(LEAVES_FIELD, None)
    plain = replace(request, fields=fields)
    if head is None and leaves is None:
        return plain, None
    if not isinstance(head, str) or not isinstance(leaves, str):
        raise _malformed()
    return plain, (SignedCheckpoint.from_text(head), _hashes(leaves))


def _hashes(text: str) -> tuple[bytes, ...]:
    if len(text) > 2 * HASH_BYTES * MAX_LEAVES or len(text) % (2 * HASH_BYTES):
        raise _malformed()
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise _malformed() from None
    if data.hex() != text:
        raise _malformed()
    return tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES))


def _malformed() -> Rejected:
    return Rejected(
        "CHECKPOINT_MALFORMED", "what a request carries of the log cannot be read",
        "use the same medunlearn version at every site",
    )
