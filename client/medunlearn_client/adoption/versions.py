"""Versions that were put into service, each whole and never changed, and the link to one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from medunlearn_client.adoption.checking import CheckedRun
from medunlearn_client.adoption.folder import ADOPTION_FILE
from medunlearn_client.adoption.hospital import AdoptionHospital
from medunlearn_client.models import digests_of_model
from medunlearn_common.attestation.files import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    ADAPTER_FOLDER,
    ADAPTER_WEIGHTS,
    ATTESTATION_FILE,
)
from medunlearn_common.digests import digest_of_file, digest_of_files
from medunlearn_common.errors import Misconfigured, Rejected, Transient
from medunlearn_common.files import private_folder, sync_path, write_atomically

MODEL_FOLDER: Final = "model"
BASE_ALONE: Final = 0
CHANGES: Final = ("adapter_adopted", "adapter_rolled_back")


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """Contents of ``adoption.json``: one version.

    Attributes:
        version: Its number, which is that of the change that made it.
        previous: The version that was in service before; 0 for the base model alone.
        run_id: The run.
        attestation_digest: SHA-256 (hex) of its attestation's file.
        adapter_digest: Of the adapter.
        merged_digest: Of the merged model; empty where the adapter is a folder of its own.
        by: Who adopted it.
        at: Seconds since 1970.
        despite: Sites that objected and were overruled here.
    """

    version: int
    previous: int
    run_id: str
    attestation_digest: str
    adapter_digest: str
    merged_digest: str
    by: str
    at: int
    despite: tuple[str, ...]


def prepare_version(
    hospital: AdoptionHospital, checked: CheckedRun, place: Path, *, merge: bool
) -> str:
    """Fill a version's folder; returns the merged model's digest, or nothing."""
    shutil.rmtree(place, ignore_errors=True)  # of a change that never came to be recorded
    private_folder(place)
    target = place / ADAPTER_FOLDER
    target.mkdir()
    for name in (*ADAPTER_FILES, ATTESTATION_FILE):
        shutil.copyfile(checked.folder / ADAPTER_FOLDER / name, target / name)
        sync_path(target / name)
    for name, expected in checked.statement.files.items():
        if digest_of_file(place / name) != expected:
            raise Rejected("FILE_CHANGED", f"{name} changed while it was copied",
                           "find out who writes to the inbox")
    return _merge(hospital, checked, place) if merge else ""


def _merge(hospital: AdoptionHospital, checked: CheckedRun, place: Path) -> str:
    # Late: an adapter's folder can be adopted where no model can be loaded.
    import torch

    from medunlearn_client.adoption.loading import open_adapter, write_model

    base, model = open_adapter(
        place / ADAPTER_FOLDER, model=hospital.config.model_folder, device=torch.device("cpu"),
        dtype=checked.plan.model.dtype,
    )
    write_model(model.merge_and_unload(safe_merge=True), base.tokenizer, place / MODEL_FOLDER)
    for path in (place / MODEL_FOLDER).iterdir():
        sync_path(path)
    return digests_of_model(place / MODEL_FOLDER)[0]


def write_adoption(place: Path, adoption: Adoption) -> None:
    """Make a version whole; raises Transient WRITE_FAILED."""
    value = {**vars(adoption), "despite": list(adoption.despite)}
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    write_atomically(place / ADOPTION_FILE, text.encode("ascii"))
    sync_path(place.parent)


def sound_version(hospital: AdoptionHospital, version: int) -> Adoption:
    """A version whose files are those that the hospital's log names.

    Raises:
        Rejected: ADOPTION_DAMAGED.
    """
    place = hospital.places.version(version)
    logged = next((
        record.fields for record in hospital.audit.log.records
        if record.kind == CHANGES[0] and record.fields["number"] == version
    ), None)
    try:
        value = json.loads((place / ADOPTION_FILE).read_text(encoding="ascii"))
        adoption = Adoption(**{**value, "despite": tuple(value["despite"])})
        files = [place / ADAPTER_FOLDER / name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
        found: Mapping[str, Any] = {
            "number": version, "run_id": adoption.run_id,
            "attestation_digest": digest_of_file(place / ADAPTER_FOLDER / ATTESTATION_FILE),
            "adapter_digest": digest_of_files(files),
            "merged_digest": (
                digests_of_model(place / MODEL_FOLDER)[0] if adoption.merged_digest else ""
            ),
        }
    except (OSError, ValueError, TypeError, KeyError, Misconfigured):
        raise _damaged(version) from None
    if logged is None or any(logged[name] != value for name, value in found.items()):
        raise _damaged(version)
    return adoption


def _damaged(version: int) -> Rejected:
    return Rejected(
        "ADOPTION_DAMAGED", f"version {version} in adopted/ is not what was put into service",
        "restore adopted/ from its backup; find out who wrote to it",
    )


def next_number(hospital: AdoptionHospital) -> int:
    """Number of the next change, by the hospital's log and by the versions that are there whole.

    A log that was put back does not know the latest of them, and none is ever written over.
    """
    logged = [
        int(r.fields["number"]) for r in hospital.audit.log.records if r.kind in CHANGES
    ]
    whole = [
        int(path.parent.name)
        for path in hospital.places.adopted.glob(f"versions/[0-9]*/{ADOPTION_FILE}")
        if path.parent.name.isdigit()
    ]
    return 1 + max(*logged, *whole, 0, 0)


# -- the link ---------------------------------------------------------------------------------


def linked_version(hospital: AdoptionHospital) -> int:
    """The version that the link names; -1 if it names none of ours."""
    link = hospital.places.current
    try:
        target = os.readlink(link)
    except FileNotFoundError:
        return BASE_ALONE
    except OSError:
        return -1
    name = Path(target).name
    known = name.isdigit() and target == f"versions/{name}"
    return int(name) if known else -1


def switch_to(hospital: AdoptionHospital, version: int) -> None:
    """Rename the link to a version; raises Transient WRITE_FAILED."""
    link = hospital.places.current
    temporary = link.with_name(f".current.{os.getpid()}.tmp")
    try:
        if version == BASE_ALONE:
            link.unlink(missing_ok=True)
        else:
            with suppress(FileNotFoundError):
                temporary.unlink()
            temporary.symlink_to(f"versions/{hospital.places.version(version).name}")
            os.replace(temporary, link)
        if link.parent.is_dir():
            sync_path(link.parent)
    except OSError as error:
        raise Transient(
            "WRITE_FAILED", f"the link adopted/current cannot be changed ({error.strerror})",
            "mend the folder; the next command finishes the change",
        ) from error


@contextmanager
def version_errors(place: Path) -> Iterator[None]:
    """Turn an OSError while a version is made into Transient, and remove what there is of it."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise Transient(
            "WRITE_FAILED", f"the new version cannot be written ({error.strerror})",
            "free disk space or mend permissions; what was in service still is",
        ) from error
