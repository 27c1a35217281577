"""What a hospital sends: ring vectors over one shared support, as raw little-endian bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medunlearn_common.errors import Rejected
from medunlearn_common.ring import RingVector

WIRE_DTYPE = np.dtype("<u4")


@dataclass(frozen=True, kw_only=True)
class SparseUpdate:
    """One ring vector whose meaning is fixed by two digests.

    Attributes:
        values: Shape ``(k,)`` or longer where metrics ride along, uint32.
        layout_digest: Digest of the :class:`AdapterLayout`.
        subject_digest: Digest of the :class:`Support`, or of the layout for the vote.
    """

    values: RingVector
    layout_digest: str
    subject_digest: str

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or self.values.dtype != np.uint32:
            raise Rejected(
                "UPDATE_DTYPE",
                f"an update must be a flat uint32 vector, not {self.values.dtype}",
                "use the same medunlearn version at every site",
            )

    def to_bytes(self) -> bytes:
        """Raw little-endian words, without a header: the envelope names length and type."""
        return self.values.astype(WIRE_DTYPE, copy=False).tobytes()

    @classmethod
    def from_bytes(
        cls, data: bytes, *, length: int, layout_digest: str, subject_digest: str
    ) -> SparseUpdate:
        """Parse words of an expected length.

        Raises:
            Rejected: If the length differs by even one byte.
        """
        if len(data) != length * WIRE_DTYPE.itemsize:
            raise Rejected(
                "UPDATE_LENGTH",
                f"an update of {len(data)} bytes where {length * WIRE_DTYPE.itemsize} are due",
                "check that the site uses this round's support",
            )
        values = np.frombuffer(data, dtype=WIRE_DTYPE).astype(np.uint32)
        return cls(values=values, layout_digest=layout_digest, subject_digest=subject_digest)
