"""Where a run and what is published of it lie at the coordinator.

    PARTY/trust/                 the coordinator's key and roster
    PARTY/runs/RUN_ID/           the run's folder: outcome, adapter, audit.db
    PARTY/published/RUN_ID/      what hospitals get, and what they said:
        adapter/  attestation.json  audit-log.jsonl  roster.dsse  run-plan.json  result.json
        statements/SITE.dsse     each hospital's last decision
        deliveries.json          the last publication: who got it, with which verdict

A run's folder with a ``trust`` of its own, as in a simulation, is its own party's folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from medunlearn_common.attestation.files import ATTESTATION_FILE, MAX_FILE_BYTES
from medunlearn_common.audit.kinds import run_id as is_run_id
from medunlearn_common.digests import digest_of_file
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically
from medunlearn_common.publication import (
    FULL_FILES,
    STATEMENTS_FOLDER,
    UPDATE_FILES,
    statement_file,
)
from medunlearn_common.trust_folder import TRUST_FOLDER

PUBLISHED_FOLDER: Final = "published"
DELIVERIES_FILE: Final = "deliveries.json"


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """A run's places.

    Attributes:
        party: The coordinator's folder.
        run: The run's folder.
        run_id: The run.
    """

    party: Path
    run: Path
    run_id: str

    @classmethod
    def of(cls, run_folder: Path, run_id: str) -> Self:
        """From the run's folder, wherever the trust folder is.

        Raises:
            Misconfigured: RUN_ID_INVALID or TRUST_MISSING.
        """
        if not is_run_id(run_id):
            raise Misconfigured("RUN_ID_INVALID", "that is no name of a run",
                                "`medunlearn coordinator runs` lists them")
        run_folder = run_folder.absolute()
        for party in (run_folder, run_folder.parent.parent):
            if (party / TRUST_FOLDER).is_dir():
                return cls(party=party, run=run_folder, run_id=run_id)
        raise Misconfigured(
            "TRUST_MISSING", f"{run_folder.name} belongs to no coordinator's folder",
            "name the folder that `medunlearn coordinator init` made",
        )

    @property
    def folder(self) -> Path:
        """What is published."""
        return self.party / PUBLISHED_FOLDER / self.run_id

    @property
    def statements(self) -> Path:
        """Hospitals' decisions."""
        return self.folder / STATEMENTS_FOLDER

    @property
    def attestation_digest(self) -> str:
        """SHA-256 (hex) of the attestation; raises Misconfigured: RUN_NOT_ATTESTED."""
        try:
            return digest_of_file(self.folder / ATTESTATION_FILE)
        except OSError as error:
            raise Misconfigured(
                "RUN_NOT_ATTESTED", f"run {self.run_id} has not been attested",
                "once it has finished: medunlearn coordinator publish, without --show",
            ) from error

    def files(self, *, full: bool) -> dict[str, bytes]:
        """What travels: everything, or what may have changed since a site got everything.

        Raises:
            Misconfigured: PUBLISHED_FILE_MISSING.
        """
        names = list(FULL_FILES if full else UPDATE_FILES)
        names += [statement_file(path.stem) for path in sorted(self.statements.glob("*.dsse"))]
        try:
            return {name: (self.folder / name).read_bytes() for name in names}
        except OSError as error:
            raise published_file_missing(self.run_id) from error

    def deliveries(self) -> dict[str, Any]:
        """The last publication's outcome; empty before the first."""
        path = self.folder / DELIVERIES_FILE
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            return {}
        try:
            found = json.loads(path.read_text(encoding="ascii"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def write_deliveries(self, value: dict[str, Any]) -> None:
        """Keep a publication's outcome; raises Transient WRITE_FAILED."""
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"
        write_atomically(self.folder / DELIVERIES_FILE, text.encode("ascii"), private=False)


def published_file_missing(run_id: str) -> Misconfigured:
    """PUBLISHED_FILE_MISSING: the same bytes must come back, as hospitals take no others."""
    return Misconfigured(
        "PUBLISHED_FILE_MISSING", f"run {run_id} was attested, and its published folder is not "
        "whole",
        f"put {PUBLISHED_FOLDER}/{run_id} back from a backup, or have a hospital that has the run "
        f"send its folder inbox/{run_id}; do not have it attested anew",
    )
