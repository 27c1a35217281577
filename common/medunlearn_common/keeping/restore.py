"""Putting a backup back, without ever putting history back.

Order: read the archive and check every file of it -> see what is missing here -> refuse where
that would take history back -> mark -> say in the ledger that nothing bounds it -> put the
missing files in place. Killed at any moment, the same command goes on where it stopped: while
history is missing, or a mark is not said in the ledger, it marks anew. Nothing that lies in the
folder is ever replaced: a store that is damaged is moved aside by a person first, as evidence.
"""

from __future__ import annotations

import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from medunlearn_common.accounting import Mechanism
from medunlearn_common.digests import digest_of_file
from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.files import sync_path
from medunlearn_common.keeping.adopted import relink
from medunlearn_common.keeping.backup import FORMAT, MANIFEST
from medunlearn_common.keeping.catalogue import ENROLMENTS, STATE_HISTORY, class_of
from medunlearn_common.keeping.marks import LOST_FILE, HistoryLost, PartyMarks
from medunlearn_common.keeping.stopped import stopped
from medunlearn_common.keeping.stores import (
    ENVELOPES,
    UNKNOWN_RELEASE,
    holds,
    lost_stores,
    refuse_newer_stores,
    released_runs,
    rows_of,
    stores_behind,
)
from medunlearn_common.ledger.schema import LEDGER_FILE
from medunlearn_common.ledger.store import PrivacyLedger
from medunlearn_common.trust_folder import PARTY_FILE, TRUST_FOLDER

MAX_FILES, MAX_MANIFEST_BYTES = 100_000, 64 << 20
_RUNS_IN = (
    (ENVELOPES, "SELECT run FROM locks UNION SELECT run FROM sent UNION SELECT run FROM received"),
    (LEDGER_FILE, "SELECT run_id FROM releases UNION SELECT run_id FROM runs"),
    (STATE_HISTORY, "SELECT run_id FROM runs"),
)


@dataclass(frozen=True, kw_only=True)
class Restored:
    """What happened.

    Attributes:
        party_id: Whose backup it was.
        placed: Names put in place.
        kept: Names that were there already, and stayed as they were.
        history_lost: The mark, where history was put back.
        in_service: The adopted version whose link was made anew; 0 for none.
    """

    party_id: str
    placed: tuple[str, ...]
    kept: tuple[str, ...]
    history_lost: HistoryLost | None
    in_service: int = 0


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    party_id: str
    role: str
    made_at: int
    final: bool
    files: dict[str, str]


def restore(
    archive: Path, folder: Path, *, history_lost: bool = False,
    clock: Callable[[], float] = time.time,
) -> Restored:
    """Put back what is missing in a party's folder.

    Args:
        archive: Made by :func:`medunlearn_common.keeping.backup.make_backup`.
        folder: The party's; may be missing.
        history_lost: A person says that the newer history is gone for good.
        clock: Seconds since 1970.

    Guarantees:
        * No file that is there is changed, least of all a ledger, envelope store or share
          journal: those can only grow.
        * Missing history is put back from a final backup, or with a mark that closes every run
          the backup or the folder knew and asks people about any other (:class:`PartyMarks`). A
          hospital's ledger says that nothing bounds what was spent over all runs, before any of
          the old history has its name. A store that is there, and lacks what the backup or the
          other stores know, counts as missing.
        * A share journal, the nodes that were let in and the invitations of then come back from a
          final backup only, and not beside other history. An enrolment that was set aside since
          stays where it is.
        * The adapter in service is the one that the log in the folder names: see
          :func:`medunlearn_common.keeping.adopted.relink`.

    Raises:
        Rejected: BACKUP_FORM, BACKUP_DAMAGED, BACKUP_OTHER_PARTY, AUDIT_LOG_DAMAGED.
        Misconfigured: RESTORE_HISTORY if history is missing and nobody said that it is lost;
            PARTY_RETIRED, SERVICE_RUNNING; BACKUP_MISSING.
        Transient: RESTORE_FAILED.
    """
    PartyMarks(folder).require_in_service()
    if not archive.is_file():
        raise Misconfigured("BACKUP_MISSING", f"there is no archive {archive}", "check the path")
    with _reported(), tempfile.TemporaryDirectory(dir=_existing(folder)) as scratch, \
            ExitStack() as held:
        manifest = _unpacked(archive, Path(scratch))
        _require_same_party(manifest, folder)
        if folder.is_dir():
            held.enter_context(stopped(folder))
        refuse_newer_stores(Path(scratch))
        refuse_newer_stores(folder)
        missing, mark = _missing(manifest, Path(scratch), folder, said=history_lost, now=clock())
        if mark is not None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            mark.write(folder)
            if manifest.role == "hospital":
                _say_unbounded((Path(scratch) if LEDGER_FILE in missing else folder) / LEDGER_FILE,
                               mark)
        for name in missing:
            _place(Path(scratch) / name, folder / name)
    with _reported():
        in_service = relink(folder) if manifest.role == "hospital" else 0
    kept = tuple(name for name in manifest.files if name not in set(missing))
    return Restored(party_id=manifest.party_id, placed=tuple(missing), kept=kept,
                    history_lost=mark, in_service=in_service)


def _missing(
    manifest: _Manifest, copies: Path, folder: Path, *, said: bool, now: float
) -> tuple[list[str], HistoryLost | None]:
    """What is to be put back, and the mark that has to be set first."""
    missing = [name for name in manifest.files if not (folder / name).exists()]
    missing = _without_set_aside(manifest, missing, folder)
    if manifest.final and not _has_history(folder, manifest):
        return missing, None
    missing = [name for name in missing if class_of(name) != "momentary"]
    lost = _lost_history(manifest, missing, copies, folder)
    if not lost:
        return missing, None
    known = _known_runs(copies, folder, role=manifest.role)
    return ([name for name in missing if name != LOST_FILE],
            _marked(manifest, known, lost, said=said, now=now))


def _unpacked(archive: Path, scratch: Path) -> _Manifest:
    """Every file of the archive in ``scratch``, checked; what it does not name is an error."""
    with tarfile.open(archive, mode="r:") as packed:
        manifest = _read_manifest(packed)
        seen = set()
        while (entry := packed.next()) is not None:
            if not entry.isreg() or entry.name not in manifest.files or entry.name in seen:
                raise _form("an entry that its manifest does not name")
            seen.add(entry.name)
            target = scratch / entry.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            stream = packed.extractfile(entry)
            if stream is None:
                raise _form("an entry without contents")
            with stream, target.open("wb") as out:
                while chunk := stream.read(1 << 20):
                    out.write(chunk)
            target.chmod(entry.mode & 0o700)  # never more than the owner's
    for name, digest in manifest.files.items():
        if name not in seen or digest_of_file(scratch / name) != digest:
            raise Rejected("BACKUP_DAMAGED", f"{name} in the backup is not what was written",
                           "use another backup; nothing was restored")
    return manifest


def _read_manifest(packed: tarfile.TarFile) -> _Manifest:
    first = packed.next()
    if first is None or first.name != MANIFEST or first.size > MAX_MANIFEST_BYTES:
        raise _form("no manifest")
    stream = packed.extractfile(first)
    found: Any = json.loads(stream.read()) if stream is not None else {}
    try:
        if found["format"] != FORMAT:
            raise _form(f"another format than {FORMAT}")
        files = {str(name): str(digest) for name, digest in found["files"].items()}
        manifest = _Manifest(
            party_id=str(found["party_id"]), role=str(found["role"]),
            made_at=int(found["made_at"]), final=found["final"] is True, files=files,
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise _form("a manifest that cannot be read") from None
    if len(files) > MAX_FILES or not all(map(_is_plain, files)):
        raise _form("names that lead out of the folder")
    return manifest


def _is_plain(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name \
        and PurePosixPath(name).as_posix() == name


def _require_same_party(manifest: _Manifest, folder: Path) -> None:
    path = folder / TRUST_FOLDER / PARTY_FILE
    if path.is_file() and path.read_text("ascii").strip() != manifest.party_id:
        raise Rejected("BACKUP_OTHER_PARTY", f"this is a backup of {manifest.party_id}",
                       "restore it into that party's folder")


def _without_set_aside(manifest: _Manifest, missing: list[str], folder: Path) -> list[str]:
    """Without the enrolments that lie here under another name: in force, or former, since."""
    place = folder / ENROLMENTS
    here = {digest_of_file(path) for path in place.rglob("*") if path.is_file()}
    return [name for name in missing
            if PurePosixPath(name).parts[0] != ENROLMENTS or manifest.files[name] not in here]


def _lost_history(
    manifest: _Manifest, missing: list[str], copies: Path, folder: Path
) -> list[str]:
    """Stores of which something is gone, whether or not the backup has it."""
    lost = [name for name in missing if class_of(name) == "history"]
    lost += stores_behind(folder, copies)
    if manifest.role == "hospital":
        lost += lost_stores(folder)
        if not (folder / TRUST_FOLDER / PARTY_FILE).is_file():
            lost.append(LEDGER_FILE)  # made since the backup, if this is what is left of a disk
    return sorted(set(lost))


def _has_history(folder: Path, manifest: _Manifest) -> bool:
    """Whether another history is here: a final backup moves whole, or is as old as any other."""
    return any(
        (folder / name).exists() and digest_of_file(folder / name) != digest
        for name, digest in manifest.files.items() if class_of(name) != "settings"
    )


def _marked(
    manifest: _Manifest, known: set[str], history: list[str], *, said: bool, now: float
) -> HistoryLost:
    if not said:
        raise Misconfigured(
            "RESTORE_HISTORY",
            f"{', '.join(history[:4])} would be as of the backup: what was released and signed "
            "since then would be forgotten",
            "find the newer files first. If they are gone for good: --history-lost; this party "
            "is then out of every run that the backup knew",
        )
    return HistoryLost(restored_at=int(now), backup_at=manifest.made_at,
                       known_runs=tuple(sorted(known)))


def _known_runs(*places: Path, role: str) -> set[str]:
    """Every run that the copies, or what was not lost, name; whatever store names it.

    An earlier mark's runs are among them, admitted ones too: what was said in them until now may
    be what is lost.
    """
    runs: set[str] = set()
    for place in places:
        runs.update(released_runs(place))
        if role == "coordinator":
            runs.update(path.name for path in (place / "runs").glob("*"))
        earlier = PartyMarks(place).history_lost
        if earlier is not None:
            runs.update(earlier.known_runs, earlier.admitted_runs)
        for name, query in _RUNS_IN:
            if holds(place / name):
                runs.update(str(run) for (run,) in rows_of(place / name, query))
    return runs


def _say_unbounded(path: Path, mark: HistoryLost) -> None:
    """Charge what nobody knows: from here on the sum over all runs has no bound."""
    PrivacyLedger(path).charge(
        run_id=mark.ledger_run, release=UNKNOWN_RELEASE,
        request_digest="0" * 64, budget=None,
        mechanism=Mechanism(sigma=0.0, forget_rate=1.0, retain_rate=1.0, count=1),
    )


def _place(source: Path, target: Path) -> None:
    """Put a file in place, flushed; never over another."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    sync_path(source)
    os.link(source, target)  # fails where a file has appeared meanwhile
    sync_path(target.parent)


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.absolute().parents) if p.is_dir())


def _form(why: str) -> Rejected:
    return Rejected("BACKUP_FORM", f"no backup of a party: {why}",
                    "name a file that `medunlearn backup` wrote")


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _form("it cannot be read") from error
    except (OSError, sqlite3.Error) as error:
        raise Transient(
            "RESTORE_FAILED", f"the backup could not be put back: {error}",
            "mend the cause and repeat the same command: it goes on where it stopped",
        ) from error
