"""What lies where in a finished run, as `medunlearn verify` reads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medunlearn_common.errors import Misconfigured, Rejected

ATTESTATION_FILE = "attestation.json"
LOG_FILE = "audit-log.jsonl"
ROSTER_FILE = "roster.dsse"
RUN_PLAN_FILE = "run-plan.json"
PLAN_FILE = "plan.toml"
RESULT_FILE = "result.json"
REPORT_FILE = "report.html"
ADAPTER_FOLDER = "adapter"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_FACTS = "medunlearn.json"
ADAPTER_FILES = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_FACTS)
MAX_FILE_BYTES = 64 << 20


class BadFile(Rejected):
    """A file that is not what it must be.

    Attributes:
        file: Its name below the run's folder.
    """

    def __init__(self, code: str, message: str, hint: str, *, file: str) -> None:
        super().__init__(code, message, hint)
        self.file = file


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The folder to verify.

    Attributes:
        run: The run's folder; None where only an adapter was given.
        adapter: The adapter's folder.
    """

    run: Path | None
    adapter: Path

    @classmethod
    def at(cls, path: Path) -> Evidence:
        """A run's folder, or an adapter's.

        Raises:
            Misconfigured: VERIFY_NOTHING.
        """
        if (path / ADAPTER_CONFIG).is_file() and not (path / LOG_FILE).exists():
            return cls(run=None, adapter=path)
        if (path / ADAPTER_FOLDER).is_dir():
            return cls(run=path, adapter=path / ADAPTER_FOLDER)
        raise Misconfigured(
            "VERIFY_NOTHING", f"{path} is neither a run's folder nor an adapter's",
            "name the --out folder of a finished run, or its adapter folder",
        )

    @property
    def root(self) -> Path:
        """Where the attestation lies."""
        return self.run if self.run is not None else self.adapter

    def read(self, name: str) -> bytes:
        """A file below :attr:`root`.

        Raises:
            Rejected: FILE_MISSING or FILE_TOO_LARGE.
        """
        path = self.root / name
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BadFile(
                    "FILE_TOO_LARGE", f"{name} is larger than 64 MiB", "ask for a new copy of it",
                    file=name,
                )
            return path.read_bytes()
        except OSError as error:
            raise BadFile(
                "FILE_MISSING", f"{name} cannot be read ({error.strerror})",
                "ask for a whole copy of the run", file=name,
            ) from None
