"""Processor time and memory of a federation's processes, by what each of them is.

    before = look(parties)
    …
    spent(before, look(parties))          seconds by kind

A process that lived and died in between is found in its parent's account, once that one has
waited for it; kinds that live for one message are therefore counted at their parent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import psutil

from medunlearn_simulation.rehearsal.parties import Party

# Looked for in this order in a command line; what none of them fits is the service itself.
KINDS: Mapping[str, str] = {
    "flower-superlink": "SuperLink", "service.serverapp_process": "ServerApp",
    "service.gateway_process": "gateway", "watching.web": "dashboard",
    "service.node_process": "SuperNode", "service.app_process": "ClientApp",
    "app_caller.py": "ClientApp", "service.app_starter": "ClientApp", "service.worker": "worker",
    "medunlearn_client.watching": "hospital's metrics",
}
EXECUTORS = ("coordinator's executor", "hospital's executor")
SERVICES = ("coordinator's service", "hospital's service")
# Whose dead children are of which kind.
_CHILDREN_OF = {"hospital's executor": "ClientApp", "ClientApp": "ClientApp",
                "coordinator's executor": "ServerApp"}


@dataclass(frozen=True, kw_only=True)
class Account:
    """One process at one moment.

    Attributes:
        kind: What it is.
        seconds: Of processor time so far, user and system.
        children_s: Of its dead children.
        rss_kib: Memory that it holds.
    """

    kind: str
    seconds: float
    children_s: float
    rss_kib: float


Look = Mapping[tuple[int, float], Account]


def look(parties: Iterable[Party]) -> Look:
    """All processes of all parties now, by pid and birth."""
    found: dict[tuple[int, float], Account] = {}
    for party in parties:
        for process in party.family():
            with suppress(psutil.Error), process.oneshot():
                times, birth = process.cpu_times(), process.create_time()
                found[process.pid, birth] = Account(
                    kind=kind_of(process.cmdline(), hospital=party.index > 0),
                    seconds=times.user + times.system,
                    children_s=times.children_user + times.children_system,
                    rss_kib=process.memory_info().rss / 1024,
                )
    return found


def kind_of(command: list[str], *, hospital: bool) -> str:
    """What a process is, by its command line."""
    words = command[:8]
    for part, kind in KINDS.items():
        if any(part in word for word in words):
            return kind
    if any("flower-superexec" in word for word in words):
        return EXECUTORS[hospital]
    return SERVICES[hospital]


def spent(before: Look, after: Look) -> dict[str, float]:
    """Processor seconds between two looks, by kind.

    A process that died in between and was not waited for by one of ours is missing.
    """
    seconds: dict[str, float] = defaultdict(float)
    nothing = Account(kind="", seconds=0.0, children_s=0.0, rss_kib=0.0)
    died = {key for key in before if key not in after}
    for key, now in after.items():
        was = before.get(key, nothing)
        seconds[now.kind] += now.seconds - was.seconds
        if now.kind in _CHILDREN_OF:
            seconds[_CHILDREN_OF[now.kind]] += now.children_s - was.children_s
    for key in died:  # their whole life is in a parent's account now: less what was counted
        if before[key].kind in _CHILDREN_OF.values():
            seconds[before[key].kind] -= before[key].seconds
    return dict(seconds)


@dataclass
class Memory:
    """Resident memory of each process along the rounds."""

    seen: dict[tuple[str, int, float], list[tuple[float, float]]] = field(default_factory=dict)

    def note(self, at: float, found: Look) -> None:
        """Take one look at round ``at`` (may be a fraction)."""
        for (pid, birth), account in found.items():
            self.seen.setdefault((account.kind, pid, birth), []).append((at, account.rss_kib))

    def slopes(self, *, settled: float = 3.0) -> dict[str, Slope]:
        """Growth by kind: one slope over all processes of a kind, each with its own level.

        Args:
            settled: Rounds of a process's life that are left out: caches fill.
        """
        lives: dict[str, list[list[tuple[float, float]]]] = defaultdict(list)
        for (kind, _, _), points in self.seen.items():
            later = [point for point in points if point[0] >= points[0][0] + settled]
            if len(later) >= _FEWEST:
                lives[kind].append(later)
        return {kind: slope_of(found) for kind, found in lives.items()}


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Growth of memory, by least squares.

    Attributes:
        kib: Per round.
        error: Standard error of that. Memory moves in steps that last, so that it is too small
            rather than too large.
        level_kib: Mean size of one process.
        points: How many looks it rests on.
        processes: Of how many processes.
    """

    kib: float
    error: float
    level_kib: float
    points: int
    processes: int


_FEWEST = 4


def slope_of(lives: list[list[tuple[float, float]]]) -> Slope:
    """One slope over several processes' points (round, KiB), each with a level of its own."""
    x = np.concatenate([_centred([at for at, _ in life]) for life in lives])
    y = np.concatenate([_centred([kib for _, kib in life]) for life in lives])
    spread = float(x @ x)
    kib = float(x @ y) / spread if spread else 0.0
    left = y - kib * x
    freedom = max(1, len(x) - len(lives) - 1)
    error = float(np.sqrt(left @ left / freedom / spread)) if spread else float("inf")
    level = float(np.mean([kib for life in lives for _, kib in life]))
    return Slope(kib=kib, error=error, level_kib=level, points=len(x), processes=len(lives))


def _centred(values: list[float]) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    centred: npt.NDArray[np.float64] = array - array.mean()
    return centred
