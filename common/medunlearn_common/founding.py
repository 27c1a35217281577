"""What both parties' `init` share: a folder that appears whole or not at all, and its key."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from medunlearn_common.entropy import Entropy
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.files import sync_path, write_atomically
from medunlearn_common.fingerprints import same_fingerprint
from medunlearn_common.identity import SigningIdentity, passphrase_from, write_identity
from medunlearn_common.identity.key_files import require_passphrase
from medunlearn_common.trust_folder import KEY_FILE, PARTY_FILE, PASSPHRASE_FILE, TRUST_FOLDER

_OWNER_ONLY, _OTHERS_ENTER, _OTHERS_WRITE = 0o700, 0o011, 0o022
_PASSPHRASE_BYTES = 24


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which takes its name only once the block has ended without an error.

    Raises:
        Misconfigured: FOLDER_EXISTS if there is anything under the name already.
        Transient: WRITE_FAILED.
    """
    folder = folder.absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Misconfigured("FOLDER_EXISTS", f"{folder} exists already and is not empty",
                                "choose another folder; one that is in use is never overwritten")
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.new")
        draft.mkdir(mode=_OWNER_ONLY)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield draft
        os.rename(draft, folder)
        sync_path(folder.parent)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def new_trust_folder(
    folder: Path, party_id: str, *, entropy: Entropy, passphrase_file: Path | None
) -> SigningIdentity:
    """Make a party's signing key inside ``folder``/trust.

    The passphrase is the file's or the environment's, and is then not kept here: a service needs
    it again at each start. Without one, a random one is written beside the key (0600), which
    protects backups of the key file alone, and nothing against whoever is this user.

    Raises:
        Misconfigured: KEY_ codes.
        Transient: WRITE_FAILED.
    """
    place = folder / TRUST_FOLDER
    place.mkdir(mode=_OWNER_ONLY, parents=True, exist_ok=True)
    given = passphrase_from(passphrase_file)
    passphrase = given or secrets.token_urlsafe(_PASSPHRASE_BYTES).encode("ascii")
    require_passphrase(passphrase)
    identity = SigningIdentity.generate(party_id, entropy)
    write_identity(place / KEY_FILE, identity, passphrase=passphrase)
    if given is None:
        write_atomically(place / PASSPHRASE_FILE, passphrase + b"\n")
    write_atomically(place / PARTY_FILE, f"{party_id}\n".encode("ascii"))
    return identity


def require_confirmed(
    words: str, *, told: str | None, first_use: bool, who: str, interactive: bool
) -> bool:
    """Let a person confirm a fingerprint, or say plainly that nobody did.

    Args:
        words: Of what lies here. They are not shown to whom is asked for them: who could copy
            them from the screen would not telephone.
        told: What the other side said by telephone, if it was given with the command.
        first_use: Believe it unseen.
        who: Whom to telephone.
        interactive: Whether somebody can be asked.

    Returns:
        Whether it was compared; False means trust on first use.

    Raises:
        Misconfigured: FINGERPRINT_DIFFERS, FINGERPRINT_FORM, FINGERPRINT_UNCONFIRMED.
    """
    if told is None and first_use:
        typer.echo(f"WARNING: trust on first use. Nobody compared the fingerprint with {who}.\n"
                   "  Whoever could change the file on its way is now believed for good. The\n"
                   f"  fingerprint is\n    {words}\n"
                   f"  Compare it by telephone before patient data comes near this folder.")
        return False
    if told is None and not interactive:
        raise Misconfigured(
            "FINGERPRINT_UNCONFIRMED", "nobody compared the fingerprint",
            f"telephone {who} and pass the words with --fingerprint; --trust-on-first-use goes on "
            "without, and believes whoever could change the file on its way")
    if not (_asked(words, who) if told is None else same_fingerprint(told, words)):
        raise Misconfigured(
            "FINGERPRINT_DIFFERS", "the fingerprint is not the one you were told",
            "if the words were typed as they were told, use nothing of this file, and tell "
            f"{who}: it is another one's, or was changed")
    return True


def _asked(words: str, who: str) -> bool:
    """Whether a person types these words; asked again while they are too few or too many."""
    typer.echo(f"Telephone {who} (at a number that was not in the same mail) and type the eight "
               "words you are told.")
    while True:
        try:
            return same_fingerprint(str(typer.prompt("fingerprint as told")), words)
        except Misconfigured as error:
            typer.echo(f"{error.message}: {error.hint}")


def loose_files(folder: Path) -> list[tuple[str, int]]:
    """Private files and folders that group or others can reach, with their mode.

    Looked at are trust/ with trust/former/, tls/*.key, node/, next/, root/ and state/*.secret:
    whatever begins a key, a passphrase or a secret.
    """
    places = [path for pattern in (
        "trust/*", "trust/former/*", "tls/*.key", "node/*.key", "next/*.key", "root/*",
        "state/*.secret") for path in folder.glob(pattern)]
    public = {"root.cbor", "roster.dsse", "policy.toml", "party.txt"}
    found = []
    for path in sorted(places):
        mode = stat.S_IMODE(path.lstat().st_mode)
        private = path.is_file() and path.name not in public and path.suffix not in (
            ".entry", ".db", ".db-wal", ".db-shm", ".db-journal")
        if private and mode & 0o077:
            found.append((path.relative_to(folder).as_posix(), mode))
    trust_mode = stat.S_IMODE((folder / TRUST_FOLDER).stat().st_mode) \
        if (folder / TRUST_FOLDER).is_dir() else 0
    if trust_mode & 0o022:
        found.append((TRUST_FOLDER, trust_mode))
    return found


def writable_files(folder: Path) -> list[tuple[str, int]]:
    """What decides for this party and could be written by group or others, with its mode.

    Looked at are the folder itself, settings, policy, roster and root, plans that were approved,
    certificates and nodes' keys. Behind a folder that nobody else may enter nothing is reached.
    """
    if not stat.S_IMODE(folder.stat().st_mode) & _OTHERS_ENTER:
        return []
    places = [folder, *folder.glob("*.toml")]
    for name in (TRUST_FOLDER, "approvals", "node", "nodes", "next", "tls", "state", "enrolments"):
        places += [folder / name, *(folder / name).glob("*.*")]
    modes = {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.lstat().st_mode)
        for path in places if path.exists() and not path.is_symlink()
    }
    return [(name, mode) for name, mode in sorted(modes.items()) if mode & _OTHERS_WRITE]


def _unwritable(folder: Path, error: OSError) -> Transient:
    return Transient("WRITE_FAILED", f"cannot make {folder}: {error.strerror or error}",
                     "free disk space or mend permissions; nothing was left there")
