"""One network namespace per party, with a link from each hospital to the coordinator.

    coordinator: lo 10.77.0.1/32, one end of every link: 10.77.N.1
    hospital N:  the other end: 10.77.N.2, a route to 10.77.0.1, and nothing else

Hospitals cannot reach each other: the coordinator's namespace forwards nothing. Where namespaces
are not allowed (no root, no kernel support), all parties share this machine's loopback.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Protocol

from medunlearn_common.errors import Misconfigured

COORDINATOR_ADDRESS, LOOPBACK = "10.77.0.1", "127.0.0.1"
_COMMAND_S = 20.0


class Network(Protocol):
    """Where parties live. Index 0 is the coordinator, hospitals count from 1."""

    @property
    def coordinator_address(self) -> str:
        """At which hospitals reach the coordinator."""
        ...

    @property
    def separate(self) -> bool:
        """Whether each party has a loopback of its own."""
        ...

    def inside(self, index: int, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` at a party; the process itself becomes it."""
        ...

    def cut(self, hospital: int) -> None:
        """Take a hospital's link away; packets vanish, as when a cable is pulled."""
        ...

    def mend(self, hospital: int) -> None:
        """Put the link back."""
        ...


@dataclass(frozen=True, kw_only=True)
class SharedLoopback:
    """All parties on 127.0.0.1."""

    coordinator_address: str = LOOPBACK
    separate: bool = False

    def inside(self, index: int, command: Sequence[str]) -> list[str]:
        """See :meth:`Network.inside`."""
        return list(command)

    def cut(self, hospital: int) -> None:
        """Raises REHEARSAL_NETWORK: there is no link to cut."""
        raise Misconfigured("REHEARSAL_NETWORK", "parties share one loopback: no link to cut",
                            "run it as root, where network namespaces are allowed")

    def mend(self, hospital: int) -> None:
        """As :meth:`cut`."""
        self.cut(hospital)


@dataclass(kw_only=True)
class Namespaces:
    """A namespace per party; made by :func:`networks`."""

    prefix: str
    hospitals: int
    coordinator_address: str = COORDINATOR_ADDRESS
    separate: bool = True
    _emulators: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def name(self, index: int) -> str:
        """Name of a party's namespace."""
        return f"{self.prefix}-{index}"

    def inside(self, index: int, command: Sequence[str]) -> list[str]:
        """See :meth:`Network.inside`."""
        return ["ip", "netns", "exec", self.name(index), *command]

    def make(self) -> None:
        """Raises CalledProcessError where the kernel does not allow it, OSError without ip."""
        for index in range(self.hospitals + 1):
            _ip("netns", "add", self.name(index))
            _ip("-n", self.name(index), "link", "set", "lo", "up")
        _ip("-n", self.name(0), "address", "add", f"{COORDINATOR_ADDRESS}/32", "dev", "lo")
        for hospital in range(1, self.hospitals + 1):
            self._link(hospital)

    def _link(self, hospital: int) -> None:
        _ip("-n", self.name(0), "link", "add", f"to{hospital}", "type", "veth",
            "peer", "name", "up0", "netns", self.name(hospital))
        self._address(hospital)

    def _address(self, hospital: int) -> None:
        for index, device, end in ((0, f"to{hospital}", 1), (hospital, "up0", 2)):
            address = f"10.77.{hospital}.{end}/24"
            _ip("-n", self.name(index), "address", "add", address, "dev", device)
            _ip("-n", self.name(index), "link", "set", device, "up")
        _ip("-n", self.name(hospital), "route", "add", COORDINATOR_ADDRESS,
            "via", f"10.77.{hospital}.1")

    def cut(self, hospital: int) -> None:
        """See :meth:`Network.cut`: the coordinator's end goes down, so routes here stay."""
        _ip("-n", self.name(0), "link", "set", f"to{hospital}", "down")

    def mend(self, hospital: int) -> None:
        """See :meth:`Network.mend`."""
        _ip("-n", self.name(0), "link", "set", f"to{hospital}", "up")

    def degrade(self, hospital: int, *, delay_ms: float, loss: float, seed: int = 0) -> None:
        """Replace a link by one that delays each packet and loses some, both ways.

        Two TUN devices with a process between them: kernels without netem have these.
        """
        _ip("-n", self.name(0), "link", "del", f"to{hospital}")
        self._emulators[hospital] = subprocess.Popen(
            [sys.executable, "-m", "medunlearn_simulation.rehearsal.slow_link",
             self.name(0), f"to{hospital}", self.name(hospital), "up0",
             str(delay_ms), str(loss), str(seed)], stdout=subprocess.PIPE)
        output = self._emulators[hospital].stdout
        if output is None or output.readline() != b"ready\n":
            raise Misconfigured("REHEARSAL_NETWORK", "no TUN devices can be made here",
                                "this needs root and /dev/net/tun")
        self._address(hospital)

    def repair(self, hospital: int) -> None:
        """Replace a degraded link by a good one."""
        self._end_emulator(hospital)  # its devices go with it
        self._link(hospital)

    def _end_emulator(self, hospital: int) -> None:
        emulator = self._emulators.pop(hospital)
        emulator.kill()
        emulator.wait()

    def remove(self) -> None:
        """Take everything away; what is in the namespaces must have ended."""
        for hospital in tuple(self._emulators):
            self._end_emulator(hospital)
        for index in range(self.hospitals + 1):
            with suppress(OSError, subprocess.SubprocessError):
                _ip("netns", "del", self.name(index))


@contextmanager
def networks(hospitals: int, *, separate: bool | None = None) -> Iterator[Network]:
    """Networks for a coordinator and so many hospitals; gone at the end.

    Args:
        hospitals: How many.
        separate: Whether each gets a namespace; None: where the machine allows it.

    Raises:
        Misconfigured: REHEARSAL_NETWORK if namespaces are wanted and not allowed.
    """
    if separate is False:
        yield SharedLoopback()
        return
    made = Namespaces(prefix=f"mu{os.getpid()}", hospitals=hospitals)
    found: Network = made
    try:
        try:
            made.make()
        except (OSError, subprocess.SubprocessError) as error:
            if separate:
                raise Misconfigured(
                    "REHEARSAL_NETWORK", "network namespaces are not allowed here",
                    "run it as root, or leave --namespaces out",
                ) from error
            found = SharedLoopback()
        yield found
    finally:
        made.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=_COMMAND_S)
