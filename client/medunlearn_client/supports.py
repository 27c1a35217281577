"""The supports of one plan's runs at a site: what is taken from a request, and what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from medunlearn_common.errors import Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import RunPlan
from medunlearn_common.support import Support, planned_random_support, support_size


class KeptSupports:
    """Checks each support once, and keeps the latest of the plan over a restart."""

    def __init__(self, folder: Path, plan: RunPlan, layout: AdapterLayout) -> None:
        self._path = folder / "supports" / f"{plan.digest}.npy"
        self._plan = plan
        self._layout = layout
        self._checked: dict[str, Support] = {}

    def get(self, digest: str, indices: npt.NDArray[np.int64] | None) -> Support:
        """The run's support: drawn where the plan says random, else sent, now or before.

        Raises:
            Rejected: SUPPORT_MISMATCH, SUPPORT_UNKNOWN, SUPPORT_TOO_LARGE, or
                SUPPORT_NOT_DRAWN if a request names another than the plan's random support.
        """
        if digest not in self._checked:
            if self._plan.support.method == "random":
                support = self._drawn(digest)
            else:
                support = self._kept(digest) if indices is None else self._of(indices)
                self._check(support, digest)
                write_atomically(self._path, support.indices.astype("<i8").tobytes())
            self._checked[digest] = support
        return self._checked[digest]

    def _drawn(self, digest: str) -> Support:
        support = planned_random_support(
            self._layout, density=self._plan.support.density, plan_digest=self._plan.digest)
        if support.digest != digest:
            raise Rejected(
                "SUPPORT_NOT_DRAWN", "the support is not the one that the plan's digest draws",
                "the coordinator chose coordinates itself: report it to the consortium",
            )
        return support

    def _of(self, indices: npt.NDArray[np.int64]) -> Support:
        return Support(indices=indices, layout_digest=self._layout.digest)

    def _kept(self, digest: str) -> Support:
        """What lies here of this plan, unless another run of the plan has left it."""
        if self._path.is_file():
            support = self._of(
                np.frombuffer(self._path.read_bytes(), dtype="<i8").astype(np.int64))
            if support.digest == digest:
                return support
        raise Rejected(
            "SUPPORT_UNKNOWN", "this site has not been sent the run's support",
            "resume the run from its checkpoint",
        )

    def _check(self, support: Support, digest: str) -> None:
        if support.digest != digest or support.indices[-1] >= self._layout.dimension:
            raise Rejected(
                "SUPPORT_MISMATCH", "the support does not match its digest or the layout",
                "resume the run from its checkpoint",
            )
        if support.size > support_size(self._layout, self._plan.support.density):
            raise Rejected(
                "SUPPORT_TOO_LARGE",
                f"{support.size} coordinates are more than the plan's density allows",
                "the coordinator must use the plan's density",
            )
