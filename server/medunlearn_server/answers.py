"""What one masked sum over all sites brought, and what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medunlearn_common.updates import SparseUpdate


@dataclass(kw_only=True)
class Answers:
    """The sum of one release, and who answered.

    Attributes:
        total: The sum over ``sites``; None while it is masked.
        sites: Ids of the sites in the sum, sorted.
        failures: Site id, or address of an unknown site, to code.
        bytes_down: Site id to bytes sent.
        bytes_up: Site id to bytes received.
        attempts: How often the release was asked for.
    """

    total: SparseUpdate | None = None
    sites: tuple[str, ...] = ()
    failures: dict[str, str] = field(default_factory=dict)
    bytes_down: Counter[str] = field(default_factory=Counter)
    bytes_up: Counter[str] = field(default_factory=Counter)
    attempts: int = 0

    def need_total(self) -> SparseUpdate:
        """The sum, which exists once the sum was opened."""
        if self.total is None:
            raise RuntimeError("the sum was not opened")
        return self.total

    def tally(self) -> dict[str, Any]:
        """All but the sum, as plain values."""
        return {
            "sites": list(self.sites), "failures": self.failures, "attempts": self.attempts,
            "bytes_down": dict(self.bytes_down), "bytes_up": dict(self.bytes_up),
        }

    @classmethod
    def from_tally(cls, value: Mapping[str, Any]) -> Answers:
        """Back from :meth:`tally`."""
        return cls(
            sites=tuple(value["sites"]), failures=dict(value["failures"]),
            attempts=value["attempts"], bytes_down=Counter(value["bytes_down"]),
            bytes_up=Counter(value["bytes_up"]),
        )
