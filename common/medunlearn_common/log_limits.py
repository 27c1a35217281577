"""How often one place may log: an outsider who knocks for a night must not fill a disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable

MOST = 60
PERIOD_S = 60.0
_MOST_KEYS = 1_000


class Throttle:
    """Admits ``most`` of each key in a period, and counts the others."""

    def __init__(
        self, *, most: int = MOST, period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = most
        self._period_s = period_s
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[Hashable, tuple[float, int]] = {}

    def admit(self, key: Hashable) -> int | None:
        """How many of this key were left out before this one; None if it is left out itself."""
        with self._lock:
            now = self._clock()
            began, count = self._counts.get(key, (now, 0))
            if now - began < self._period_s:
                self._keep(key, began, count + 1)
                return None if count >= self._most else 0
            self._keep(key, now, 1)
            return max(0, count - self._most)

    def _keep(self, key: Hashable, began: float, count: int) -> None:
        if len(self._counts) >= _MOST_KEYS:
            self._counts.clear()
        self._counts[key] = (began, count)
