"""One consistent copy of a party's folder, taken while the party serves.

All databases are held against writers at the same time (``BEGIN IMMEDIATE``), copied with
SQLite's online backup and let go, so that the copy is of one moment: a ledger that is older than
the envelopes beside it would have released without having charged. Adapters and checkpoints are
gigabytes, and a writer waits for a database for half a minute only: all other files are copied
before, and those that have changed meanwhile once more under the hold.
"""

from __future__ import annotations

import io
import os
import resource
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from medunlearn_common import __version__
from medunlearn_common.digests import canonical_json, digest_of_file
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import held_alone, sync_path, write_atomically
from medunlearn_common.keeping.catalogue import Role, class_of, files_of, is_database, role_of
from medunlearn_common.keeping.marks import RETIRED_FILE, PartyMarks
from medunlearn_common.keeping.stopped import stopped
from medunlearn_common.trust_folder import party_id_of

MANIFEST = "manifest.json"
FORMAT = 1
BUSY_S = 30.0
# The file, its journal of writes and the index to it; a second connection copies.
_FILES_PER_DATABASE, _OTHER_FILES = 3, 128


@dataclass(frozen=True, kw_only=True)
class Backup:
    """What was written.

    Attributes:
        path: The archive, readable by its owner alone.
        party_id: Whose it is.
        role: What the party is.
        made_at: Seconds since 1970.
        files: How many.
        final: Whether the party is retired with it.
    """

    path: Path
    party_id: str
    role: Role
    made_at: int
    files: int
    final: bool


def make_backup(
    folder: Path, out: Path, *, final: bool = False, clock: Callable[[], float] = time.time
) -> Backup:
    """Copy everything that is the party's own into one archive.

    Args:
        folder: The party's folder.
        out: The archive; must not exist.
        final: Retire the folder and copy what is good only at this moment, the share journal, too:
            for a move to another machine.
        clock: Seconds since 1970.

    Guarantees:
        * All databases are copied as of one moment.
        * The passphrase is never in the archive. What is good only at this moment is in a final one
          alone: put back, an old share journal would give the other share of a peer whose first it
          gave already.
        * With ``final`` nothing is served meanwhile, and the folder is retired, durably, before the
          archive has its name.

    Raises:
        Misconfigured: BACKUP_NO_PARTY, TRUST_MISSING, BACKUP_EXISTS, BACKUP_PLACE, PARTY_RETIRED;
            SERVICE_RUNNING or RUN_LOCKED if a final backup is asked for while the party serves,
            or a run is led.
        Transient: BACKUP_FAILED, WRITE_FAILED; no archive is there then.
    """
    role, made_at = role_of(folder), int(clock())
    PartyMarks(folder).require_in_service()
    if out.exists():
        raise Misconfigured("BACKUP_EXISTS", f"{out.name} is there already", "choose another name")
    if not out.absolute().parent.is_dir():
        raise Misconfigured("BACKUP_PLACE", f"there is no folder {out.absolute().parent}",
                            "make it, or name another place for the archive")
    party_id = party_id_of(folder)
    with _reported(), tempfile.TemporaryDirectory(dir=out.absolute().parent) as scratch:
        copies = Path(scratch)
        with ExitStack() as held:
            if final:
                # What is under way would leave after the copy: charged and signed here alone.
                held.enter_context(stopped(folder))
                held.enter_context(_no_run_led(folder))
            names = _copy_all(folder, copies, held, final=final)
            for name in names:
                if is_database(copies / name):
                    check_copy(copies / name)
            if final:
                held.enter_context(_retired(folder, out, at=made_at))
            _write_archive(out, copies, names, canonical_json(_manifest(
                party_id, role, made_at, final, {n: digest_of_file(copies / n) for n in names})))
    return Backup(path=out, party_id=party_id, role=role, made_at=made_at, files=len(names),
                  final=final)


def _manifest(
    party_id: str, role: Role, made_at: int, final: bool, files: dict[str, str]
) -> dict[str, object]:
    return {"format": FORMAT, "version": __version__, "party_id": party_id, "role": role,
            "made_at": made_at, "final": final, "files": files}


@contextmanager
def _retired(folder: Path, out: Path, *, at: int) -> Iterator[None]:
    """Retire the folder; taken back if there is no archive in the end."""
    write_atomically(folder / RETIRED_FILE, canonical_json({"at": at}) + b"\n")
    try:
        yield
    finally:
        if not out.exists():
            (folder / RETIRED_FILE).unlink()


def _copy_all(folder: Path, copies: Path, held: ExitStack, *, final: bool) -> list[str]:
    """Copy everything as of one moment; of a final copy, databases stay held."""
    copied: dict[str, _Stamp] = {}
    for name, path in _wanted(folder, final=final):
        with suppress(FileNotFoundError):  # gone since it was listed
            if not _is_store(path):
                copied[name] = _copy_file(path, copies / name)
    names: list[str] = []
    with ExitStack() as moment:
        hold, databases = held if final else moment, set[str]()
        while new := [(name, path) for name, path in _wanted(folder, final=final)
                      if name not in databases and _is_store(path)]:
            databases |= {name for name, _ in new}
            with _open_files_for(len(databases)):
                for _, path in new:  # and once more: a run may have begun meanwhile
                    hold.enter_context(_held(path))
        for name, path in _wanted(folder, final=final):
            if name in databases:
                copy_database(path, copies / name)
            elif not _is_store(path):
                with suppress(FileNotFoundError):
                    if copied.get(name) != _Stamp.of(path):
                        _copy_file(path, copies / name)
            if (copies / name).exists():
                names.append(name)
    return names


def _is_store(path: Path) -> bool:
    """Whether a file is a database, or an empty one that is about to become one."""
    try:
        return is_database(path) or (
            path.suffix in (".db", ".sqlite") and path.stat().st_size == 0)
    except FileNotFoundError:
        return False


def _wanted(folder: Path, *, final: bool) -> list[tuple[str, Path]]:
    return [(name, path) for name, path in files_of(folder)
            if final or class_of(name) != "momentary"]


@dataclass(frozen=True, kw_only=True)
class _Stamp:
    """By which a file is the same as before: replaced ones have another inode."""

    inode: int
    changed_ns: int
    size: int

    @classmethod
    def of(cls, path: Path) -> _Stamp:
        found = path.stat()
        return cls(inode=found.st_ino, changed_ns=found.st_mtime_ns, size=found.st_size)


def _copy_file(path: Path, target: Path) -> _Stamp:
    """Copy a file; its stamp from before, so that what is written meanwhile is copied again."""
    stamp = _Stamp.of(path)
    copy_plainly(path, target)
    return stamp


def copy_plainly(path: Path, target: Path) -> None:
    """Copy a file that is no database, with its mode; raises OSError."""
    _make_place(target)
    shutil.copyfile(path, target)
    target.chmod(path.stat().st_mode & 0o777)


def _make_place(target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)


@contextmanager
def _open_files_for(databases: int) -> Iterator[None]:
    """Have room for a connection to each database, as far as the system allows it.

    Raises:
        Transient: BACKUP_FAILED where that was too little.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = databases * _FILES_PER_DATABASE + _OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        if most == wanted:
            raise
        raise Transient(
            "BACKUP_FAILED", f"{databases} databases are open at once in a backup, and this "
            f"process may open {hard} files", f"allow it {wanted}: ulimit -Hn {wanted}, or "
            f"LimitNOFILE={wanted} in a unit",
        ) from error


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Nobody writes meanwhile; readers go on."""
    with closing(_opened(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def _opened(path: Path) -> sqlite3.Connection:
    """A database that is there: one that is gone by now is an error, not made anew and empty."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S,
                           isolation_level=None)


def copy_database(path: Path, target: Path, *, durable: bool = False) -> None:
    """Copy one of SQLite's files with what its journal holds; raises sqlite3.Error.

    Args:
        path: The file.
        target: Its copy.
        durable: The copy itself outlasts a power cut, not only an archive that is made of it.
    """
    _make_place(target)
    with closing(_opened(path)) as source, \
            closing(sqlite3.connect(target)) as copy:
        if not durable:
            copy.execute("PRAGMA synchronous=OFF")
        source.backup(copy)
    target.chmod(path.stat().st_mode & 0o777)


def check_copy(path: Path) -> None:
    """Make a copied database one sound file; what takes long, after the hold.

    Raises:
        Transient: BACKUP_FAILED.
        sqlite3.Error: It cannot be read.
    """
    with closing(sqlite3.connect(path)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")
        (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
    if verdict != "ok":
        raise Transient(
            "BACKUP_FAILED", f"{path.name} is damaged: SQLite's integrity check says so",
            "keep the file as evidence; docs/runbook.md says what to do with a damaged store",
        )


@contextmanager
def _no_run_led(folder: Path) -> Iterator[None]:
    """Hold the lock of every run, as a coordinator that works on it would."""
    led = Misconfigured("RUN_LOCKED", "a coordinator is working on a run of this folder",
                        "stop it before its folder moves away")
    with ExitStack() as locks:
        for path in sorted((folder / "runs").glob("*/run.lock")):
            locks.enter_context(held_alone(path, led))
        yield


def _write_archive(out: Path, copies: Path, names: list[str], manifest: bytes) -> None:
    """The manifest first, so that a reader knows what must follow."""
    # Never a file that is there: where others may write, it could be theirs, or lead elsewhere.
    temporary = out.with_name(f".{out.name}.{token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                head = tarfile.TarInfo(MANIFEST)
                head.size, head.mode = len(manifest), 0o600
                archive.addfile(head, io.BytesIO(manifest))
                for name in names:
                    _add(archive, name, copies / name)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, out)
    finally:
        with suppress(OSError):
            temporary.unlink()
    try:
        sync_path(out.absolute().parent)
    except OSError:
        out.unlink()  # its name may not last: the folder is not retired for that
        raise


def _add(archive: tarfile.TarFile, name: str, path: Path) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = path.stat().st_size, path.stat().st_mode & 0o777
    with path.open("rb") as stream:
        archive.addfile(entry, stream)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, tarfile.TarError) as error:
        raise Transient(
            "BACKUP_FAILED", f"the backup could not be made: {error}",
            "free disk space or mend permissions, and try again; nothing was left behind",
        ) from error
