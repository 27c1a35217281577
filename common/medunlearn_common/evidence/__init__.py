"""Proofs that a party said two things: taken out of a record, checked by anybody.

Guarantees:
    What :func:`proven` accepts was signed twice by one party of the roster, whoever shows it and
    wherever it was found. What it does not accept may be true all the same.
"""

from medunlearn_common.evidence.contradictions import (
    Contradiction,
    collected,
    from_bytes,
    proven,
    to_bytes,
)

__all__ = ["Contradiction", "collected", "from_bytes", "proven", "to_bytes"]
