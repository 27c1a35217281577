"""The DSSE envelope (v1) of a statement: exact bytes, signed with their type, parsed afterwards."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from medunlearn_common.audit.signing import STATEMENT_CONTEXT, Signer, Verifier
from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Rejected
from medunlearn_common.strict_json import parse_canonical

MAX_ENVELOPE_BYTES = 32 << 20


def sealed(payload: bytes, signer: Signer) -> bytes:
    """The envelope's file: canonical JSON and a line end.

    What is signed is DSSE's pre-authentication encoding of payload type and payload, so that
    any DSSE verifier can check it.
    """
    return canonical_json({
        "payload": _base64(payload),
        "payloadType": STATEMENT_CONTEXT,
        "signatures": [{
            "keyid": signer.party_id,
            "sig": _base64(signer.sign(STATEMENT_CONTEXT, payload)),
        }],
    }) + b"\n"


def opened(data: bytes, verifier: Verifier, *, signer: str) -> bytes:
    """The payload, after its signature was checked.

    Raises:
        Rejected: ENVELOPE_MALFORMED, ENVELOPE_SIGNER if another party signed, a JSON code, or
            the verifier's own.
    """
    named, payload, signature = _parts(data)
    if named != signer:
        raise Rejected(
            "ENVELOPE_SIGNER", f"the attestation is not signed by {signer}",
            "only the coordinator attests a run",
        )
    verifier.verify(signer, STATEMENT_CONTEXT, payload, signature)
    return payload


def named_signer(data: bytes) -> str:
    """Who is said to have signed; nothing is checked yet but the form.

    Raises:
        Rejected: ENVELOPE_MALFORMED or a JSON code.
    """
    return _parts(data)[0]


def _parts(data: bytes) -> tuple[str, bytes, bytes]:
    """Named signer, payload, signature."""
    value: Any = parse_canonical(
        data.removesuffix(b"\n"), max_bytes=MAX_ENVELOPE_BYTES, what="the attestation"
    )
    if not data.endswith(b"\n") or not isinstance(value, dict):
        raise _malformed()
    if value.keys() != {"payload", "payloadType", "signatures"}:
        raise _malformed()
    signatures = value["signatures"]
    if value["payloadType"] != STATEMENT_CONTEXT or not isinstance(signatures, list):
        raise _malformed()
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise _malformed()
    signature = signatures[0]
    if signature.keys() != {"keyid", "sig"}:
        raise _malformed()
    if not isinstance(signature["keyid"], str):
        raise _malformed()
    return signature["keyid"], _bytes(value["payload"]), _bytes(signature["sig"])


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise _malformed()
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _malformed() from None
    if _base64(data) != text:
        raise _malformed()  # another spelling of the same bytes
    return data


def _malformed() -> Rejected:
    return Rejected(
        "ENVELOPE_MALFORMED", "the attestation is no signed envelope of one signature",
        "ask for a new copy of it",
    )
