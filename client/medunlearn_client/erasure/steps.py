"""What an officer is told when a step is not possible: why, and which command comes first."""

from __future__ import annotations

from typing import Literal

from medunlearn_client.erasure.requests import ErasureRequest, State
from medunlearn_common.errors import Rejected

Step = Literal["validate", "run", "settle", "attest", "refuse", "withdraw", "extend", "reopen"]
STEP_TO: dict[State, Step] = {
    State.VALIDATED: "validate", State.IN_RUN: "run", State.VERIFIED: "settle",
    State.ATTESTED: "attest", State.REFUSED: "refuse", State.WITHDRAWN: "withdraw",
}
_DONE: dict[Step, str] = {
    "validate": "validated", "run": "taken into a run", "settle": "verified",
    "attest": "attested", "refuse": "refused", "withdraw": "withdrawn", "extend": "extended",
    "reopen": "reopened",
}
_STANDING = {
    State.RECEIVED: "was received and not validated yet",
    State.VALIDATED: "is validated and waits for a run",
    State.IN_RUN: "is in a run",
    State.VERIFIED: "is verified: a run has forgotten its records",
    State.ATTESTED: "is closed: it is attested",
    State.REFUSED: "is closed: it was refused",
    State.WITHDRAWN: "is closed: it was withdrawn",
}
_FIRST = {
    State.RECEIVED: "`medunlearn erasure validate {number} --identity …` comes first",
    State.VALIDATED: "the next run takes it: `medunlearn simulate PLAN --erasure REGISTRY`, or the "
                     "hospital's service",
    State.IN_RUN: "wait for the run, which `medunlearn erasure list` names",
    State.VERIFIED: "tell the requester, then `medunlearn erasure attest {number} --reason …`",
}
_ANEW = "what is asked once more is entered anew with `medunlearn erasure add`"


def impossible(request: ErasureRequest, step: Step) -> Rejected:
    """ERASURE_TRANSITION, with what to do instead."""
    return Rejected(
        "ERASURE_TRANSITION",
        f"request {request.number} {_standing(request, step)}, so it cannot be {_DONE[step]}",
        _instead(request, step).format(number=request.number),
    )


def _standing(request: ErasureRequest, step: Step) -> str:
    if step == "reopen" and request.is_open:
        return f"is in no run ({request.state})"
    return _STANDING[request.state]


def _instead(request: ErasureRequest, step: Step) -> str:
    if not request.is_open:
        return _ANEW
    if step == "reopen":
        return f"there is nothing to reopen; {_FIRST[request.state]}"
    if request.state is State.IN_RUN and step in ("refuse", "withdraw"):
        return f"`medunlearn erasure reopen {{number}} --reason …` first, then {step} it"
    return _FIRST[request.state]
