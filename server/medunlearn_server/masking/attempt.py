"""An attempt that is about to be opened, as a file: from then on only it gives the release."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medunlearn_common.masking.binding import Binding
from medunlearn_common.masking.parts import Survivors, read_members
from medunlearn_common.messages import Scalar
from medunlearn_server.checkpoints import Checkpoint
from medunlearn_server.masking.session import Cut


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One attempt that is about to be opened: all that finishing it takes.

    Attributes:
        ordinal: As :class:`MaskingState`.
        cut: Survivors and masked sum.
        opening: What exchange 3 sends.
        fields: Scalars of its requests.
        layout_digest: What the sum is over.
        subject_digest: As :class:`SparseUpdate`.
    """

    ordinal: int
    cut: Cut
    opening: bytes
    fields: Mapping[str, Scalar]
    layout_digest: str = ""
    subject_digest: str = ""

    def to_checkpoint(self, **values: object) -> Checkpoint:
        """As a file, with more plain values beside it."""
        binding = self.cut.binding
        texts = {
            "ordinal": self.ordinal, "fields": dict(self.fields),
            "members": binding.members.to_bytes().hex(), "run_id": binding.members.run_id,
            "session": binding.members.session, "release": binding.release,
            "participants": list(binding.participants), "request": binding.request,
            "model": binding.model_digest, "survivors": self.cut.survivors.to_bytes().hex(),
            "opening": self.opening.hex(), "layout": self.layout_digest,
            "subject": self.subject_digest,
        }
        return Checkpoint(
            values={**texts, **values},
            arrays={"masked_sum": self.cut.masked_sum.astype(np.int64)},
        )

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Attempt:
        """Back from :meth:`to_checkpoint`; raises KeyError, ValueError or Rejected."""
        values = checkpoint.values
        members = read_members(
            bytes.fromhex(values["members"]), run_id=values["run_id"], session=values["session"]
        )
        binding = Binding(
            members=members, participants=tuple(values["participants"]),
            release=values["release"], request=values["request"], model_digest=values["model"],
        )
        survivors = Survivors.from_bytes(bytes.fromhex(values["survivors"]))
        cut = Cut(
            binding=binding, survivors=survivors,
            masked_sum=checkpoint.arrays["masked_sum"].astype(np.uint32),
        )
        return cls(
            ordinal=values["ordinal"], cut=cut, opening=bytes.fromhex(values["opening"]),
            fields=dict(values["fields"]), layout_digest=values["layout"],
            subject_digest=values["subject"],
        )
