"""What a log may say: each kind of record, its fields, and which values a field takes.

Guarantees:
    Every value is a number, a truth value, or a text that matches one of the narrow patterns
    below: a digest, an identifier that the protocol gave, a code. No field takes free text, so
    that nothing a person said, no record and no path can enter a log, whatever a caller does.
    The only names of persons are of who overrode a gate, approved a plan, countersigned, objected
    or adopted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

from medunlearn_common.errors import Rejected
from medunlearn_common.strict_json import MAX_INTEGER

Check = Callable[[Any], bool]

MAX_SITES = 10_000


def _text(pattern: str) -> Check:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def count(value: Any) -> bool:
    """A non-negative integer."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_INTEGER


def real(value: Any) -> bool:
    """A finite number, or None where there is none (no noise, no guarantee)."""
    if value is None or count(value):
        return True
    return isinstance(value, float) and isfinite(value)


def _list_of(check: Check) -> Check:
    return lambda value: (
        isinstance(value, list) and len(value) <= MAX_SITES and all(map(check, value))
    )


def _mapping_of(key: Check, check: Check) -> Check:
    return lambda value: (
        isinstance(value, dict) and len(value) <= MAX_SITES
        and all(key(k) and check(v) for k, v in value.items())
    )


digest = _text(r"[0-9a-f]{64}")
name = _text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
run_id = _text(r"[A-Za-z0-9][A-Za-z0-9._-]{0,159}")
code = _text(r"[A-Z][A-Z0-9_]{2,63}")
version = _text(r"[0-9][0-9A-Za-z.+-]{0,39}")
person = _text(r"[^\W\d_][\w .'’-]{0,63}")

# What a hospital's people say of an adapter; the number tells two equal words apart.
_DECISION: Mapping[str, Check] = {
    "site": name, "attestation_digest": digest, "by": person, "reason_digest": digest,
    "number": count,
}

KINDS: Mapping[str, Mapping[str, Check]] = {
    # The coordinator's.
    "run_begun": {"run_id": run_id, "plan_digest": digest, "version": version},
    "run_resumed": {"run_id": run_id, "next_round": count},
    "sites_agreed": {
        "sites": _list_of(name), "refused": _mapping_of(name, code), "model_digest": name,
        "tokenizer_digest": name, "hierarchy_digest": name, "layout_digest": digest,
        "request_roots": _mapping_of(name, digest),
    },
    "support_chosen": {
        "method": name, "size": count, "support_digest": digest, "sites": _list_of(name),
    },
    "round_accepted": {
        "round": count, "sites": _list_of(name), "sum_digest": digest,
        "failures": _mapping_of(name, code), "attempts": count, "epsilon": real,
    },
    "run_stopped": {"code": code},
    "gate_failed": {"gate": name, "figure": real, "limit": real},
    "gate_overridden": {"gate": name, "by": person, "reason_digest": digest},
    "adapter_written": {"adapter_digest": digest},
    "run_ended": {
        "reason": name, "rounds": count, "epsilon": real, "delta": real,
        "adapter_digest": digest,
    },
    "measured": {"result_digest": digest, "adapter_digest": digest},
    "published": {"attestation_digest": digest, "report_digest": digest},
    "attested": {"attestation_digest": digest},
    "delivered": {
        "site": name, "attestation_digest": digest, "verdict": code, "number": count,
    },
    "countersigned": _DECISION,
    "objected": _DECISION,
    # A hospital's.
    "plan_approved": {"run_id": run_id, "plan_digest": digest, "by": person},
    "plan_accepted": {"run_id": run_id, "plan_digest": digest, "request_root": digest},
    "release_charged": {
        "run_id": run_id, "release": name, "request_digest": digest, "sigma": real,
        "count": count,
    },
    "release_answered": {"run_id": run_id, "release": name, "bytes": count},
    "request_refused": {"request": name, "code": code},
    "run_finished": {"run_id": run_id, "adapter_digest": name},
    "adapter_received": {
        "run_id": run_id, "attestation_digest": digest, "adapter_digest": digest,
    },
    "decision_released": {"run_id": run_id, "verdict": name, **_DECISION},
    # Versions count adoptions and ways back together; version 0 is the base model alone.
    "adapter_adopted": {
        "number": count, "run_id": run_id, "adapter_digest": digest,
        "attestation_digest": digest, "merged_digest": _text(r"([0-9a-f]{64})?"), "by": person,
        "despite": _list_of(name),
    },
    "adapter_rolled_back": {
        "number": count, "version": count, "left": digest, "by": person,
    },
}
"""Kind to its fields; all of them are required, and no others are taken."""


def require_fields(kind: str, fields: Mapping[str, Any]) -> None:
    """Refuse what is not of a known kind, field for field.

    Raises:
        Rejected: AUDIT_KIND or AUDIT_FIELD, naming the field and never its value.
    """
    known = KINDS.get(kind)
    if known is None:
        raise Rejected("AUDIT_KIND", "no such kind of log record", "see audit.kinds.KINDS")
    if fields.keys() != known.keys():
        raise _bad(kind, "has too many or too few fields")
    for field, check in known.items():
        if not check(fields[field]):
            raise _bad(kind, f"has no lawful value in its field {field}")


def _bad(kind: str, problem: str) -> Rejected:
    return Rejected(
        "AUDIT_FIELD", f"a log record of kind {kind} {problem}",
        "a log takes digests, identifiers, codes and numbers only",
    )
