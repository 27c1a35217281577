"""The coordinator's request for one update, parsed and checked before anything is computed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medunlearn_client.geometry import Geometry
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Rejected
from medunlearn_common.messages import Message
from medunlearn_common.support import Support
from medunlearn_common.support_runs import from_runs
from medunlearn_common.wire import VALUE_DTYPES

MAX_GEOMETRY_RANK = 32


@dataclass(frozen=True, kw_only=True)
class StepRequest:
    """One round's request.

    Attributes:
        round_index: Round, from 0.
        plan_digest: Plan it belongs to.
        support_digest: Support of this run.
        support_indices: The support itself where the site may not have it yet, ``(k,)``.
        sigma: Noise multiplier of the whole sum.
        values: Adapter values on the support, ``(k,)``, float32, as precise as they were sent.
        geometry: The Fisher-metric transform, or None.
    """

    round_index: int
    plan_digest: str
    support_digest: str
    support_indices: npt.NDArray[np.int64] | None
    sigma: float
    values: npt.NDArray[np.float32]
    geometry: Geometry | None

    @classmethod
    def from_message(cls, message: Message, *, value_bits: int = 32) -> StepRequest:
        """Split the payload: values, then the support if sent, then the geometry if used.

        Args:
            message: The request.
            value_bits: Of one adapter value, as the plan says.

        Raises:
            Rejected: STEP_PAYLOAD, SUPPORT_FORM, MESSAGE_FIELD or GEOMETRY_INVALID.
        """
        dtype = VALUE_DTYPES[value_bits]
        values_bytes = message.integer("values_bytes")
        support_bytes = message.integer("support_bytes")
        rank = message.integer("geometry_rank")
        size = values_bytes // dtype.itemsize
        expected = values_bytes + support_bytes + (4 * size * (1 + rank) if rank else 0)
        if (
            min(values_bytes, support_bytes, rank) < 0 or rank > MAX_GEOMETRY_RANK
            or size < 1 or values_bytes % dtype.itemsize or len(message.payload) != expected
        ):
            raise _bad_payload("its parts do not add up")
        values = np.frombuffer(message.payload[:values_bytes], dtype=dtype).astype(np.float32)
        if not np.all(np.isfinite(values)):
            raise _bad_payload("the adapter holds NaN or infinite values")
        runs = message.payload[values_bytes : values_bytes + support_bytes]
        rest = message.payload[values_bytes + support_bytes :]
        return cls(
            round_index=message.integer("round"),
            plan_digest=message.text("plan_digest"),
            support_digest=message.text("support_digest"),
            support_indices=from_runs(runs, most=size) if runs else None,
            sigma=message.number("sigma"),
            values=values,
            geometry=_geometry(rest, size=size, rank=rank),
        )

    def check_lengths(self, support: Support) -> None:
        """Refuse values that are not one per coordinate of the support.

        Raises:
            Rejected: STEP_PAYLOAD.
        """
        if self.values.size != support.size:
            raise _bad_payload(f"{self.values.size} values for {support.size} coordinates")

    @property
    def release_digest(self) -> str:
        """What makes two requests for this round the same; resending the support does not."""
        geometry = b""
        if self.geometry is not None:
            geometry = self.geometry.inverse_root.tobytes() + self.geometry.basis.tobytes()
        return digest_of(
            {
                "round": self.round_index,
                "plan": self.plan_digest,
                "support": self.support_digest,
                "sigma": self.sigma,
                "values": hashlib.sha256(self.values.tobytes()).hexdigest(),
                "geometry": hashlib.sha256(geometry).hexdigest(),
            }
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """The request to count with a candidate adapter.

    Attributes:
        step: Adapter values, support and noise, as in a round; without a geometry.
        public: Only canaries on public text are asked for.
    """

    step: StepRequest
    public: bool

    @classmethod
    def from_message(cls, message: Message) -> EvaluationRequest:
        """Parse as :meth:`StepRequest.from_message`; raises the same."""
        return cls(
            step=StepRequest.from_message(message), public=message.fields.get("public") is True
        )

    @property
    def release_digest(self) -> str:
        """What makes two requests for the counts the same."""
        return digest_of({"release": "evaluate", "step": self.step.release_digest})


def _geometry(data: bytes, *, size: int, rank: int) -> Geometry | None:
    if rank == 0:
        return None
    numbers = np.frombuffer(data, dtype="<f4").astype(np.float32)
    return Geometry(inverse_root=numbers[:size], basis=numbers[size:].reshape(rank, size))


def _bad_payload(why: str) -> Rejected:
    return Rejected(
        "STEP_PAYLOAD",
        f"a step request cannot be used: {why}",
        "use the same medunlearn version at every site",
    )
