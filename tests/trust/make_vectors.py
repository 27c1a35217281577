"""Makes tests/vectors/envelope: ``python tests/trust/make_vectors.py`` (PYTHONPATH as for tests).

Frozen: another implementation, or this one in years, must read the good ones and fail the bad
ones at the named code. Each file holds the bytes, the roster, and what is expected.
"""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from trust_lab import CODE, NOW, ROOT, ROOT_KEYS, entry, key, roster, signed, small_plan

from medunlearn_common.envelope import Header, seal
from medunlearn_common.envelope.dsse import sign_bytes
from medunlearn_common.envelope.sealing import content_bytes
from medunlearn_common.identity.keys import pre_authentication_encoding
from medunlearn_common.messages import Message
from medunlearn_common.offer import RunOffer

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "envelope"
MESSAGE = Message(kind="step", payload=bytes(range(16)), fields={
    "run_id": "run-1", "round": 3, "support_digest": "5" * 64, "sigma": 0.75})


def header(message: Message = MESSAGE, **changes: Any) -> Header:
    content = content_bytes(message)
    given: dict[str, Any] = {
        "run": "run-1", "round": 3, "phase": "step", "direction": "request",
        "sender": "coordinator", "recipient": "site-0", "roster": roster().digest,
        "plan": bytes.fromhex(small_plan().digest), "support": bytes.fromhex("5" * 64),
        "digest": hashlib.sha256(content).digest(), "length": len(content), "sequence": 9,
        "nonce": bytes(range(16)), "issued": int(NOW), "expires": int(NOW) + 86_400, **changes,
    }
    return Header(**given)


def sealed(signer: str = "coordinator", message: Message = MESSAGE, **changes: Any) -> bytes:
    return seal(key(signer), header(message, **changes), content_bytes(message))


def vectors() -> dict[str, dict[str, Any]]:
    good, offer = sealed(), RunOffer(
        run="run-1", coordinator="coordinator", plan=small_plan(), package_version="0.1.0",
        code_digest=CODE)
    answer = Message(kind="step", payload=b"\1\0\0\0" * 2, fields={"site_id": "site-0",
                                                                   "run_id": "run-1", "round": 3})
    two = sign_bytes(header().to_bytes(), "application/vnd.medunlearn.envelope.v1+cbor",
                     key("coordinator"), key("rival")).to_bytes()
    later = replace(roster(2), revoked=(key("rival").key_id,), parties=tuple(
        p for p in roster().parties if p.party_id != "rival"))
    moved = entry(key("site-0-new").__class__("site-0", key("site-0-new")._private_key),
                  old=key("site-0"))
    rotated = replace(roster(2), parties=tuple(
        moved if p.party_id == "site-0" else p for p in roster().parties))
    cut = content_bytes(MESSAGE)
    return {
        "envelope_request": _envelope(good, ""),
        "envelope_answer": _envelope(sealed("site-0", answer, direction="answer", sender="site-0",
                                            recipient="coordinator", transcript=b"\2" * 32), ""),
        "envelope_empty_payload": _envelope(sealed(message=Message(kind="finish"), phase="finish",
                                                   support=bytes(32), round=0), ""),
        "envelope_bad_bit_in_signature": _envelope(_flip(good, good.index(b"csig") + 10),
                                                   "SIGNATURE_INVALID"),
        "envelope_bad_bit_in_header": _envelope(_flip(good, good.index(b"coordinator") + 1),
                                                "SIGNATURE_INVALID"),
        "envelope_bad_bit_in_content": _envelope(_flip(good, len(good) - 1), "CONTENT_DIGEST"),
        "envelope_bad_trailing_byte": _envelope(good + b"\0", "CONTENT_LENGTH"),
        "envelope_bad_truncated": _envelope(good[:100], "ENVELOPE_FORM"),
        "envelope_bad_stranger": _envelope(sealed("stranger"), "KEY_UNKNOWN"),
        "envelope_bad_other_sender": _envelope(sealed("rival"), "SENDER_KEY"),
        "envelope_bad_two_signatures": _envelope(len(two).to_bytes(4, "big") + two + cut,
                                                 "DSSE_SCHEMA"),
        "envelope_bad_round_in_content": _envelope(sealed(round=4), "ROUND_MISMATCH"),
        "envelope_bad_version": _envelope(sealed(version=2), "PROTOCOL_VERSION"),
        "roster_two_of_three": _roster(signed(roster()), ""),
        "roster_next_with_revocation": _roster(signed(later), "", signed(roster())),
        "roster_next_with_rotation": _roster(signed(rotated), "", signed(roster())),
        "roster_bad_one_signature": _roster(signed(roster(), ROOT_KEYS[2]), "ROSTER_SIGNATURES"),
        "roster_bad_rollback": _roster(signed(roster(1)), "ROSTER_ROLLBACK", signed(roster(2))),
        "offer": {"what": "offer", "bytes": offer.sign(key("coordinator")).hex(),
                  "roster": signed(roster()).hex(), "fails_with": "",
                  "plan_digest": small_plan().digest},
        "offer_bad_signer": {"what": "offer", "bytes": offer.sign(key("rival")).hex(),
                             "roster": signed(roster()).hex(), "fails_with": "OFFER_SIGNER"},
        "signature": {"what": "signature", "public_key": key("site-0").public_key.hex(),
                      "context": "application/x", "message": b"hello".hex(), "fails_with": "",
                      "encoding": pre_authentication_encoding("application/x", b"hello").hex(),
                      "signature": key("site-0").sign("application/x", b"hello").hex()},
    }


def _envelope(data: bytes, code: str) -> dict[str, Any]:
    return {"what": "envelope", "bytes": data.hex(), "roster": signed(roster()).hex(),
            "fails_with": code}


def _roster(data: bytes, code: str, after: bytes = b"") -> dict[str, Any]:
    return {"what": "roster", "bytes": data.hex(), "root": ROOT.to_bytes().hex(),
            "after": after.hex(), "fails_with": code}


def _flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, vector in vectors().items():
        text = json.dumps({"now": NOW, **vector}, indent=1)
        (FOLDER / f"{name}.json").write_text(text + "\n")
