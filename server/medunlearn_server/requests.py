"""What the coordinator asks: one function per request of the round protocol.

A request is a pure function of the run's durable state, so that a coordinator which died
asks again with the same bytes, and hospitals answer without spending privacy twice.
"""

from __future__ import annotations

import numpy as np

from medunlearn_common.digests import canonical_json
from medunlearn_common.errors import Misconfigured
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.messages import EVALUATE, FINISH, READY, START, STEP, VOTE, Message
from medunlearn_common.plan import RunPlan
from medunlearn_common.support import Support
from medunlearn_common.support_runs import to_runs
from medunlearn_common.wire import VALUE_DTYPES
from medunlearn_server.geometry import Geometry


def ready_request(plan: RunPlan, *, run_id: str, round_index: int, start: int) -> Message:
    """Ask a site to open its data and model and to name what it has.

    ``round_index`` says from which round on the site is wanted; late joiners start later.
    ``start`` counts the coordinator's own starts: each may say READY anew, under the log as it
    then is.
    """
    return Message(
        kind=READY,
        fields={
            "run_id": run_id,
            "plan": canonical_json(plan.model_dump(mode="json")).decode("ascii"),
            "plan_digest": plan.digest,
            "round": round_index,
            START: start,
        },
    )


def vote_request(
    plan: RunPlan, layout: AdapterLayout, *, run_id: str, sigma: float, public: bool
) -> Message:
    """Ask for forget and retain energies per row of B."""
    return Message(
        kind=VOTE,
        fields={
            "run_id": run_id,
            "plan_digest": plan.digest,
            "layout_digest": layout.digest,
            "sigma": sigma,
            "public": public,
        },
    )


def public_gradients_request(
    plan: RunPlan, layout: AdapterLayout, support: Support, *, run_id: str
) -> Message:
    """Ask a site for gradients of public retain text at B = 0; no privacy is spent.

    The payload is the support, unless every site draws it; the answer is a noiseless ring vector
    of ``rank * k`` values, one row per batch of the public file.
    """
    return Message(
        kind=VOTE,
        fields={
            "run_id": run_id,
            "plan_digest": plan.digest,
            "layout_digest": layout.digest,
            "support_digest": support.digest,
            "sigma": 0.0,
            "public": True,
            "geometry_rank": plan.geometry.rank,
        },
        payload=_support_part(plan, support),
    )


def step_request(
    plan: RunPlan, layout: AdapterLayout, support: Support, *, run_id: str, round_index: int,
    sigma: float, values: np.ndarray, geometry: Geometry | None, with_support: bool,
) -> Message:
    """Ask for one noised sum at the adapter ``values``, shape ``(k,)``.

    They travel as floats of the plan's ``value_bits``.

    Raises:
        Misconfigured: STEP_NOT_FINITE if a value is too large for those.
    """
    runs = _support_part(plan, support) if with_support else b""
    with np.errstate(over="ignore"):
        sent = values.astype(VALUE_DTYPES[plan.wire.value_bits])
    if not np.isfinite(sent).all():
        raise Misconfigured(
            "STEP_NOT_FINITE", "a value of the adapter is too large to be sent",
            "set [wire] value_bits = 32, or lower server.learning_rate, in a new run",
        )
    numbers = sent.tobytes()
    transform = geometry.to_bytes() if geometry is not None else b""
    return Message(
        kind=STEP,
        fields={
            "run_id": run_id,
            "round": round_index,
            "plan_digest": plan.digest,
            "layout_digest": layout.digest,
            "support_digest": support.digest,
            "sigma": sigma,
            "values_bytes": len(numbers),
            "support_bytes": len(runs),
            "geometry_rank": geometry.rank if geometry is not None else 0,
        },
        payload=numbers + runs + transform,
    )


def evaluation_request(
    plan: RunPlan, layout: AdapterLayout, support: Support, *, run_id: str, sigma: float,
    values: np.ndarray, public: bool, with_support: bool,
) -> Message:
    """Ask what records (or, with ``public``, canaries) say of the adapter ``values`` on S."""
    runs = _support_part(plan, support) if with_support else b""
    numbers = values.astype("<f4").tobytes()
    return Message(
        kind=EVALUATE,
        fields={
            "run_id": run_id,
            "round": plan.run.rounds,
            "plan_digest": plan.digest,
            "layout_digest": layout.digest,
            "support_digest": support.digest,
            "sigma": sigma,
            "public": public,
            "values_bytes": len(numbers),
            "support_bytes": len(runs),
            "geometry_rank": 0,
        },
        payload=numbers + runs,
    )


def _support_part(plan: RunPlan, support: Support) -> bytes:
    """The support as it travels; a random one does not, for every site draws it."""
    return b"" if plan.support.method == "random" else to_runs(support.indices)


def finish_request(*, run_id: str, adapter_digest: str) -> Message:
    """Tell a site that the run is over and which adapter it produced."""
    return Message(kind=FINISH, fields={"run_id": run_id, "adapter_digest": adapter_digest})
