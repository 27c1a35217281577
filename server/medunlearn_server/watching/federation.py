"""Reads a coordinator's folder into a :class:`FederationView`."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cryptography import x509

from medunlearn_common import __version__
from medunlearn_common.errors import MedunlearnError
from medunlearn_server.service.config import CoordinatorFolder, split_address
from medunlearn_server.service.runs_db import RunRow, RunsDb
from medunlearn_server.watching.run_reader import RunReader
from medunlearn_server.watching.views import CheckView, FederationView, RunView

MIN_FREE_BYTES = 1 << 30
MOST_RUNS = 200
_CONNECT_S = 0.5
_DAY_S = 86_400.0
_WARN_DAYS = 14


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
        runs = tuple(self._run(row) for row in reversed(rows[-MOST_RUNS:]))
        ends = certificate_ends(self._folder.tls("certificate"))
        checks = (
            registry, self._disk(), _logs(runs), self._certificate(ends),
            *(self._ports() if connect else ()),
        )
        return FederationView(
            at=self._clock(), version=__version__, runs=runs, checks=checks,
            certificate_ends=ends,
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

    def _certificate(self, ends: float | None) -> CheckView:
        if ends is None:
            return CheckView(name="certificate", ok=False, code="CERTIFICATE_MISSING")
        left = ends - self._clock()
        code = "CERTIFICATE_EXPIRED" if left <= 0 else (
            "CERTIFICATE_EXPIRES" if left < _WARN_DAYS * _DAY_S else "")
        return CheckView(name="certificate", ok=left > 0, code=code)

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
