"""Where a hospital keeps what it was sent, what it decided, and what is in service.

    inbox/RUN_ID/            a published run that passed every check; `medunlearn verify` reads it
    decisions/RUN_ID/        the hospital's own: measured.json, and with its reason each
                             decision-N.json
    adopted/versions/0003/   an adapter that was put into service, with adoption.json
    adopted/current          a link to the version in service; absent: the base model alone
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Final

from medunlearn_common.attestation.files import ATTESTATION_FILE
from medunlearn_common.audit.kinds import person
from medunlearn_common.audit.kinds import run_id as is_run_id
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import held_alone, private_folder, sync_path

MEASURED_FILE: Final = "measured.json"
ADOPTION_FILE: Final = "adoption.json"
_OLD: Final = ".old"


@dataclass(frozen=True, kw_only=True)
class AdoptionFolder:
    """Places in a hospital's folder.

    Attributes:
        root: The hospital's folder.
    """

    root: Path

    def inbox(self, run_id: str) -> Path:
        """A received run; raises Misconfigured: RUN_ID_INVALID."""
        return self.root / "inbox" / _checked(run_id)

    def received(self, run_id: str) -> Path:
        """The same, where it is there.

        Raises:
            Misconfigured: RUN_ID_INVALID, INBOX_UNKNOWN.
            Transient: WRITE_FAILED.
        """
        path = self.inbox(run_id)
        self._whole(path)
        if not (path / ATTESTATION_FILE).is_file():
            raise Misconfigured(
                "INBOX_UNKNOWN", f"run {run_id} is not in the inbox",
                "`medunlearn hospital inbox` lists what is; the coordinator publishes it",
            )
        return path

    def runs(self) -> tuple[str, ...]:
        """Received runs by name; raises Transient WRITE_FAILED."""
        folder = self.root / "inbox"
        if not folder.is_dir():
            return ()
        for old in folder.glob(_aside(folder / "*").name):
            self._whole(folder / old.name[1:].removesuffix(_OLD))
        return tuple(sorted(
            path.name for path in folder.iterdir()
            if is_run_id(path.name) and (path / ATTESTATION_FILE).is_file()
        ))

    @staticmethod
    def _whole(path: Path) -> None:
        """A run that stepped aside when the worker was killed is there like any other."""
        try:
            put_back(path)
        except OSError as error:
            raise Transient("WRITE_FAILED", f"{path.name} cannot be put back ({error.strerror})",
                            "mend the inbox's permissions") from error

    def decisions(self, run_id: str) -> Path:
        """The hospital's own words on a run."""
        return self.root / "decisions" / _checked(run_id)

    @property
    def adopted(self) -> Path:
        """What is, or was, in service."""
        return self.root / "adopted"

    @property
    def current(self) -> Path:
        """The link to what is in service."""
        return self.adopted / "current"

    def version(self, number: int) -> Path:
        """One version."""
        return self.adopted / "versions" / f"{number:04d}"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One change at a time.

        Raises:
            Transient: ADOPTION_BUSY or WRITE_FAILED.
        """
        private_folder(self.adopted)
        busy = Transient("ADOPTION_BUSY", "another command adopts or decides here",
                         "wait for it to end")
        with held_alone(self.adopted / ".lock", busy):
            yield


def require_person(by: str) -> str:
    """A person's name as the log takes it; raises Misconfigured: PERSON_INVALID."""
    if not person(by):
        raise Misconfigured("PERSON_INVALID", "--by is no name of a person",
                            'for example --by "Ann Lee"; letters, digits, spaces and .\'- only')
    return by


def put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a complete folder to its name; an older one steps aside first.

    Raises:
        OSError: Then the older one is back in its place, or aside under ``.NAME.old``.
    """
    with _swapping(folder.parent):
        _put_back(folder)
        old = _aside(folder)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(temporary, folder)
        sync_path(folder.parent)
        shutil.rmtree(old, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Give a folder its name again that stepped aside for one that never came: after a crash.

    What was received is what later states are compared with; without it an earlier one would pass.

    Raises:
        OSError: The folder cannot be renamed.
    """
    if _aside(folder).is_dir():
        with _swapping(folder.parent):
            _put_back(folder)


def _put_back(folder: Path) -> None:
    old = _aside(folder)
    if old.is_dir() and not folder.exists():
        os.replace(old, folder)
        sync_path(folder.parent)


@contextmanager
def _swapping(parent: Path) -> Iterator[None]:
    """Between its two renames the worker's swap looks like one that was killed: commands wait."""
    descriptor = os.open(parent, os.O_RDONLY)
    try:
        flock(descriptor, LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}{_OLD}")


def _checked(run_id: str) -> str:
    if not is_run_id(run_id):
        raise Misconfigured("RUN_ID_INVALID", "that is no name of a run",
                            "`medunlearn hospital inbox` lists them")
    return run_id
