"""A run's claim on disk, so that a resumed run settles what it had taken.

Guarantees:
    A registry that lacks what runs took from it, an older copy or another one, is refused: whom
    those runs have forgotten would be taught again, and the number of a request that is lost would
    name somebody else's. So is a hospital that names none any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from medunlearn_client.erasure.claims import Claim
from medunlearn_client.erasure.history import NO_HISTORY
from medunlearn_client.erasure.registry import Registry
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import write_atomically


class ClaimFile(BaseModel):
    """Its contents: numbers of requests, and nothing of a patient.

    Attributes:
        registry: Where the requests stand.
        numbers: Those that the run works for.
        token: The run's own.
        left_out: Those whose records are in neither of its sets; none in files that were written
            before runs left any out.
        head: Last digest of the registry's history when the claim was made. Kept where any are left
            out: the history of these does not name the run, as that of the others does.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    registry: str
    numbers: tuple[int, ...]
    token: str
    left_out: tuple[int, ...] = ()
    head: str = NO_HISTORY


def keep_claim(file: Path, claim: Claim) -> None:
    """Write a claim; nothing is marked yet.

    What is empty is not written: a version that does not know the field reads such a file.

    Raises:
        Transient: WRITE_FAILED.
    """
    kept = ClaimFile(
        registry=str(claim.registry.path), numbers=tuple(claim.numbers), token=claim.token,
        left_out=tuple(claim.left_out), head=claim.head if claim.left_out else NO_HISTORY,
    )
    write_atomically(file, kept.model_dump_json(indent=2, exclude_defaults=True).encode())


def kept_claim(
    file: Path, *, registry: Path | None = None, taken: bool = True
) -> Claim | None:
    """The claim that a run was started with; None if it had none.

    Args:
        file: Where it lies.
        registry: Where the registry is now; None takes the place of that time.
        taken: The run took its requests.

    Raises:
        Misconfigured: RUN_FILE_INVALID, ERASURE_REGISTRY_ROLLBACK, or a code of the registry.
        Rejected: ERASURE_HISTORY_TAMPERED.
    """
    claim = _read_claim(file, registry=registry)
    if claim is not None and not claim.is_known(taken=taken):
        raise _rolled_back(
            claim, "this run", "put the newest copy back, with its key; if it is lost for good, "
            "this run is over: enter anew what is lost, and start a new one")
    return claim


def require_not_rolled_back(folder: Path, registry: Path) -> None:
    """Refuses a registry that lacks what runs of this hospital took from it.

    A run that never began taught nothing: of such a one only what it left out is asked for. A
    damaged file says nothing; its own run is refused for it.

    Args:
        folder: The hospital's.
        registry: Where its registry is now.

    Raises:
        Misconfigured: ERASURE_REGISTRY_ROLLBACK, or a code of the registry.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    lacking = []
    for file in _claim_files(folder):
        try:
            claim = _read_claim(file, registry=registry)
        except Misconfigured as error:
            if error.code != "RUN_FILE_INVALID":
                raise
            continue
        if claim is None or not _asks_for_registry(file, claim):
            continue
        if not claim.is_known(taken=_has_begun(file)):
            lacking.append((file, claim))
    if lacking:
        raise _rolled_back(
            lacking[0][1], f"runs of this hospital ({_named(file for file, _ in lacking)})",
            "put the newest copy back, with its key: by this one, who was forgotten would be "
            "taught again. If it is lost for good, or another one was begun on purpose, enter "
            "anew what it lacks (letters and reports say what), and move these files out of the "
            "folder: their runs are over here")


def require_no_claims(folder: Path) -> None:
    """Refuses a hospital that names no registry, though runs of it took requests from one.

    A damaged file counts: it does not say that its run took nothing.

    Args:
        folder: The hospital's.

    Raises:
        Misconfigured: ERASURE_REGISTRY_UNSET.
    """
    asking = []
    for file in _claim_files(folder):
        try:
            kept = _read(file)
        except Misconfigured:
            asking.append(file)
            continue
        if kept is not None and _asks_for_registry(file, kept):
            asking.append(file)
    if asking:
        raise Misconfigured(
            "ERASURE_REGISTRY_UNSET", "site.toml names no registry of erasure requests, and runs "
            f"of this hospital took requests from one, or left some out ({_named(asking)})",
            "name it in [erasure] registry: without it, who was forgotten would be taught again. "
            "If there shall be none any more, take the records of all whom it knows out of the "
            "[data] files, and move these files out of the folder: their runs are over here",
        )


def give_back(file: Path, *, registry: Path, author: str) -> None:
    """Gives back what a crash left taken by a run that never began; another registry holds none.

    Args:
        file: Where its claim lies, if there is one.
        registry: Where the registry is now.
        author: Who gives it back, for the history.

    Raises:
        Misconfigured: RUN_FILE_INVALID, or a code of the registry.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    claim = _read_claim(file, registry=registry)
    if claim is not None and claim.is_known(taken=False):
        replace(claim, author=author).release("the hospital stopped before it said ready")


def _claim_files(folder: Path) -> list[Path]:
    return sorted((folder / "runs").glob("*.erasure"))


def _has_begun(file: Path) -> bool:
    """Whether the run of this claim began, as :func:`medunlearn_client.run_rules.has_begun`."""
    return file.with_suffix(".records").is_file()


def _asks_for_registry(file: Path, claim: Claim | ClaimFile) -> bool:
    """Whether a run took something, or left somebody out whom an earlier one had taken."""
    return bool(claim.left_out) or (bool(claim.numbers) and _has_begun(file))


def _named(files: Iterable[Path]) -> str:
    return ", ".join(f"runs/{file.name}" for file in files)


def _rolled_back(claim: Claim, run: str, hint: str) -> Misconfigured:
    return Misconfigured(
        "ERASURE_REGISTRY_ROLLBACK", f"the registry {claim.registry.path} lacks what it held when "
        f"{run} began: it is an older copy, or another registry", hint,
    )


def _read(file: Path) -> ClaimFile | None:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise damaged(file) from error
    try:
        return ClaimFile.model_validate_json(text)
    except ValidationError as error:
        raise damaged(file) from error


def _read_claim(file: Path, *, registry: Path | None) -> Claim | None:
    kept = _read(file)
    return None if kept is None else Claim(
        registry=_registry_of_before(registry or Path(kept.registry)), numbers=kept.numbers,
        token=kept.token, left_out=kept.left_out, head=kept.head,
    )


def _registry_of_before(path: Path) -> Registry:
    """A registry that a run has looked into; where it is gone, no new one takes its place."""
    try:
        return Registry(path)
    except Misconfigured as error:
        if error.code == "ERASURE_REGISTRY_MISSING":
            error.hint = (
                "put it back where it was, from its backup; a new registry knows nothing of this "
                "run's requests, nor of what was forgotten before"
            )
        raise


def damaged(file: Path) -> Misconfigured:
    """The error for a file that says nothing of a run's requests any more."""
    return Misconfigured(
        "RUN_FILE_INVALID", f"{file} is damaged",
        "reopen its requests with `medunlearn erasure reopen NUMBER --reason … --author …` and "
        "start a new run",
    )


@contextmanager
def taken(claim: Claim, run_id: str) -> Iterator[None]:
    """Takes the requests around what starts a run; gives them back if that fails.

    Raises:
        Rejected: ERASURE_CLAIMED if another run was faster.
    """
    try:
        claim.take(run_id)
        yield
    except BaseException:
        claim.release("the run could not be started")
        raise
