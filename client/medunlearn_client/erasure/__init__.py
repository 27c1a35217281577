"""The erasure registry: from a person's request to a forget set, and to the letter about it.

``requests`` says what a request is and which steps are lawful, ``registry`` keeps requests and
their history, ``claims`` is a run's hold on them, ``finding`` looks for the records that a
request means, ``criteria`` judges a run, ``documents`` writes letter and report, and ``pages``
turns them into HTML and PDF.
"""

from medunlearn_client.erasure.claims import (
    Claim,
    claim_on,
    forget_set,
    left_out_set,
)
from medunlearn_client.erasure.criteria import RunFigures, shortfalls
from medunlearn_client.erasure.finding import Found, Wanted, find_records
from medunlearn_client.erasure.registry import NewRequest, Registry
from medunlearn_client.erasure.requests import ErasureRequest, Event, Match, State
from medunlearn_client.erasure.settings import Settings

__all__ = [
    "Claim",
    "ErasureRequest",
    "Event",
    "Found",
    "Match",
    "NewRequest",
    "Registry",
    "RunFigures",
    "Settings",
    "State",
    "Wanted",
    "claim_on",
    "find_records",
    "forget_set",
    "left_out_set",
    "shortfalls",
]
