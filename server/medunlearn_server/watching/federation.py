"""Reads a coordinator's folder into a :class:`FederationView`."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from cryptography import x509

from medunlearn_common import __version__
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.trust_folder import RosterInForce, party_id_of
from medunlearn_server.service.config import CoordinatorFolder, split_address
from medunlearn_server.service.runs_db import RunRow, RunsDb
from medunlearn_server.watching.run_reader import RunReader
from medunlearn_server.watching.views import CheckView, FederationView, RunView

MIN_FREE_BYTES = 1 << 30
MOST_RUNS = 200
_OVER = ("finished", "stopped")
_CONNECT_S = 0.5
_DAY_S = 86_400.0
# A key and a roster are renewed by several people, a certificate by one command.
_WARN_DAYS: Mapping[str, int] = {"certificate": 14, "roster": 30, "key": 30}


class FederationReader:
    """Reads the same coordinator again and again, until it is closed.

    Args:
        folder: The coordinator's.
        clock: Unix seconds.
    """

    def __init__(
        self, folder: CoordinatorFolder, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._runs: dict[str, RunReader] = {}
        self._registry: RunsDb | None = None
        self._roster = RosterInForce(folder.path, clock=lambda: 0.0)  # expired ones are shown too

    def read(self, *, connect: bool = True) -> FederationView:
        """All runs and checks as they are now.

        Args:
            connect: Also try whether the service's ports take connections.
        """
        registry = CheckView(name="registry", ok=True)
        rows: tuple[RunRow, ...] = ()
        try:
            rows = self._rows()
        except MedunlearnError as error:
            registry = CheckView(name="registry", ok=False, code=error.code)
        shown = (*(row for row in rows[:-MOST_RUNS] if row.state not in _OVER),
                 *rows[-MOST_RUNS:])
        runs = tuple(self._run(row) for row in reversed(shown))
        now = self._clock()
        ends = certificate_ends(self._folder.tls("certificate"))
        roster, keys, own = self._roster_ends()
        checks = (
            registry, self._disk(), _logs(runs), _validity("certificate", ends, now),
            _validity("roster", roster, now), _validity("key", own, now),
            *(self._ports() if connect else ()),
        )
        return FederationView(
            at=now, version=__version__, runs=runs, checks=checks,
            certificate_ends=ends, roster_ends=roster, key_ends=keys,
        )

    def close(self) -> None:
        """Give the registry of runs back."""
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    def _rows(self) -> tuple[RunRow, ...]:
        if self._registry is None:
            if not self._folder.runs_db.exists():
                return ()  # nothing was launched yet; watching creates nothing
            self._registry = RunsDb(self._folder.runs_db)
        return self._registry.list()

    def _run(self, row: RunRow) -> RunView:
        reader = self._runs.get(row.run_id)
        if reader is None:
            reader = self._runs[row.run_id] = RunReader(
                self._folder.run(row.run_id), published=self._folder.published / row.run_id
            )
        return reader.read(row)

    def _disk(self) -> CheckView:
        free = shutil.disk_usage(self._folder.path).free
        low = free < MIN_FREE_BYTES
        return CheckView(name="disk", ok=not low, code="DISK_LOW" if low else "")

    def _roster_ends(self) -> tuple[float | None, dict[str, float], float | None]:
        """When the roster in force ends, each party's key by it, and this coordinator's own.

        Nothing if the roster is not there or unsound.
        """
        with suppress(MedunlearnError):
            roster, own = self._roster.current, party_id_of(self._folder.path)
            ends = {party.party_id: float(party.valid_until) for party in roster.parties}
            return float(roster.expires), ends, ends.get(own)
        return None, {}, None

    def _ports(self) -> tuple[CheckView, ...]:
        listen = self._folder.config.listen
        addresses = {"gateway": listen.public, "superlink": listen.superlink,
                     "control": listen.control}
        return tuple(
            CheckView(name=name, ok=(ok := _takes_connections(address)),
                      code="" if ok else "PORT_CLOSED")
            for name, address in addresses.items()
        )


def certificate_ends(path: Path) -> float | None:
    """When a PEM certificate expires, seconds since 1970; None if it cannot be read."""
    with suppress(OSError, ValueError):
        return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()
    return None


def _validity(name: str, ends: float | None, now: float) -> CheckView:
    """A check that warns while there is time, and fails once there is none."""
    kind = name.upper()
    if ends is None:
        return CheckView(name=name, ok=False, code=f"{kind}_MISSING")
    code = f"{kind}_EXPIRED" if ends <= now else (
        f"{kind}_EXPIRES" if ends - now < _WARN_DAYS[name] * _DAY_S else "")
    return CheckView(name=name, ok=ends > now, code=code)


def _logs(runs: tuple[RunView, ...]) -> CheckView:
    damaged = any(run.log.first_bad is not None for run in runs)
    return CheckView(name="audit logs", ok=not damaged,
                     code="AUDIT_LOG_DAMAGED" if damaged else "")


def _takes_connections(address: str) -> bool:
    host, port = split_address(address)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    try:
        with socket.create_connection((host, port), timeout=_CONNECT_S):
            return True
    except OSError:
        return False
