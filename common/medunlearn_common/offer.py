"""A run offered to the sites: its plan and the code that runs it, signed by the coordinator.

The offer travels inside the READY envelope but stands on its own: a site keeps it, an auditor
can read it without the envelope.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from medunlearn_common.digests import canonical_json
from medunlearn_common.envelope.dsse import Signer, open_signed, parse_signed, sign_bytes
from medunlearn_common.envelope.sealing import KeyBook
from medunlearn_common.errors import Rejected
from medunlearn_common.plan import RunPlan
from medunlearn_common.strict_cbor import decode_map, encode

OFFER_TYPE = "application/vnd.medunlearn.plan.v1+cbor"
MAX_OFFER_BYTES = 1 << 20
_FIELDS = ("run", "coordinator", "plan", "package_version", "code_digest", "model_digest",
           "tokenizer_digest")


@dataclass(frozen=True, kw_only=True)
class RunOffer:
    """What the coordinator asks the sites to agree to.

    Attributes:
        run: Name of the run.
        coordinator: Party id of who leads it.
        plan: The plan.
        package_version: Version of medunlearn.
        code_digest: See :func:`medunlearn_common.code_digest.installed_code_digest`.
        model_digest: Of the base model; empty leaves it to what the sites agree on.
        tokenizer_digest: Of the tokenizer; likewise.
    """

    run: str
    coordinator: str
    plan: RunPlan
    package_version: str
    code_digest: str
    model_digest: str = ""
    tokenizer_digest: str = ""

    @property
    def plan_digest(self) -> bytes:
        """32 bytes."""
        return bytes.fromhex(self.plan.digest)

    def sign(self, signer: Signer) -> bytes:
        """The offer as a DSSE document; the same offer gives the same bytes."""
        content = {name: getattr(self, name) for name in _FIELDS}
        content["plan"] = plan_text(self.plan)
        return sign_bytes(encode(content), OFFER_TYPE, signer).to_bytes()


def plan_text(plan: RunPlan) -> str:
    """The one spelling of a plan: canonical JSON of every value."""
    return canonical_json(plan.model_dump(mode="json")).decode("ascii")


def plan_from_canonical(text: str) -> RunPlan:
    """Back from :func:`plan_text`.

    Raises:
        Rejected: PLAN_FORM if it is no valid plan, PLAN_CANONICAL if it is spelled otherwise
            (duplicate keys, spaces, defaults left out).
    """
    try:
        plan = RunPlan.model_validate(json.loads(text))
        again = plan_text(plan)
    except (ValidationError, ValueError, TypeError, RecursionError):
        raise Rejected(  # no "from": a validation error quotes what it was given
            "PLAN_FORM", "the coordinator's plan is not valid",
            "use the same medunlearn version at every party",
        ) from None
    if again != text:
        raise Rejected("PLAN_CANONICAL", "the coordinator's plan is not spelled canonically",
                       "use the same medunlearn version at every party")
    return plan


def open_offer(data: bytes, keys: KeyBook, *, now: float) -> RunOffer:
    """Verify and read an offer; nothing is parsed before the signature held.

    Raises:
        Rejected: DSSE_, CBOR_, KEY_ codes, SIGNATURE_INVALID, OFFER_FORM, OFFER_SIGNER,
            PLAN_FORM, PLAN_CANONICAL.
    """
    document = parse_signed(data, max_bytes=MAX_OFFER_BYTES)
    party = {}

    def key_of(key: str) -> bytes:
        party[key], public_key = keys.party_of_key(key, now=now)
        return public_key

    signer, payload = open_signed(document, payload_type=OFFER_TYPE, key_of=key_of)
    found: Any = decode_map(payload, keys=frozenset(_FIELDS), max_bytes=MAX_OFFER_BYTES)
    if not all(isinstance(found[name], str) for name in _FIELDS):
        raise Rejected("OFFER_FORM", "an offer's fields are texts",
                       "use the same medunlearn version at every party")
    if party[signer] != found["coordinator"]:
        raise Rejected("OFFER_SIGNER", f"an offer of {found['coordinator']!a} is signed by "
                       f"{party[signer]}", "a coordinator signs its own offers")
    return RunOffer(**{**found, "plan": plan_from_canonical(found["plan"])})
