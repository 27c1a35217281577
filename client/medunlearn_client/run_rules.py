"""What a hospital holds a run to: the records it began with, and what its plan has a place for."""

from __future__ import annotations

from pathlib import Path

from medunlearn_client.step_message import StepRequest
from medunlearn_common.digests import HUB_PREFIX, digest_of, digest_of_files
from medunlearn_common.errors import Rejected
from medunlearn_common.files import expanded, write_atomically
from medunlearn_common.frozen import frozen_bytes
from medunlearn_common.layout import AdapterLayout
from medunlearn_common.plan import RunPlan
from medunlearn_common.plan.public_files import own_copy
from medunlearn_common.plan.sections import DataSection, ForgetSection, LeftOutSection


def kept_layout(folder: Path, plan: RunPlan) -> Path:
    """Where a hospital keeps the adapter's layout under a plan that it accepted."""
    return folder / "plans" / f"{plan.digest}.layout"


def kept_a_file(folder: Path, plan: RunPlan) -> Path:
    """Where a hospital keeps its copy of the plan's file of A."""
    return folder / "plans" / f"{plan.digest}.safetensors"


def keep_of_plan(
    folder: Path, plan: RunPlan, layout: AdapterLayout, public_files: tuple[str, ...]
) -> None:
    """Keep what an adapter of an accepted plan is checked against, when its run is long over.

    Raises:
        Rejected: PUBLIC_FILE_UNKNOWN.
        Misconfigured: A_FILE_MISSING.
        Transient: WRITE_FAILED.
    """
    write_atomically(kept_layout(folder, plan), layout.to_json().encode("ascii"))
    a_file = own_copy(plan.model.a_file, public_files, may_be_builtin=False)
    if a_file:
        write_atomically(kept_a_file(folder, plan), frozen_bytes(Path(a_file)))


def not_planned(what: str) -> Rejected:
    """The refusal of a request beyond the plan."""
    return Rejected(
        "NOT_PLANNED", f"the plan that was accepted has no place for {what}",
        "the coordinator must follow the plan",
    )


def require_planned_geometry(plan: RunPlan, request: StepRequest) -> None:
    """Refuse a transform that the plan has no place for.

    It weighs coordinates before the clip, and so would choose among those that were drawn.

    Raises:
        Rejected: NOT_PLANNED.
    """
    geometry, planned = request.geometry, plan.geometry
    if geometry is None:
        return
    if planned.projection == "none":
        raise not_planned("a projection")
    if len(geometry.basis) > planned.rank:
        raise not_planned(f"a projection of more than {planned.rank} directions")


def records_file(folder: Path, run_id: str) -> Path:
    """Where a hospital keeps what it said ready with in a run: :func:`records_digest`."""
    return folder / "runs" / f"{digest_of(run_id)}.records"


def has_begun(folder: Path, run_id: str) -> bool:
    """Whether the hospital said ready in the run, and is held to its records."""
    return records_file(folder, run_id).is_file()


def require_same_records(folder: Path, run_id: str, digest: str) -> None:
    """Refuse to go on with a run on other records than it began with.

    What was forgotten so far and what the ledger was charged for belong to the first ones.

    Raises:
        Rejected: DATA_CHANGED.
    """
    path = records_file(folder, run_id)
    if path.is_file() and path.read_text("ascii") != digest:
        raise Rejected(
            "DATA_CHANGED",
            "the record files, what they are read with, or the [data] and [forget] settings of "
            "this site are not those with which this run began",
            "put them back to resume it, or start a new run",
        )


def records_digest(
    data: DataSection, forget: ForgetSection, left_out: LeftOutSection | None = None
) -> str:
    """What decides which records there are, and which of them are forgotten or left out.

    These are the files, what they are read, mended and tagged with, and the site's own settings
    of both. Where a file lies does not count. Where nothing is left out, the digest is that of
    runs that began before anything could be.

    A data set of the hub is digested by its name only: whether its owner has changed it since
    cannot be seen from here. Where that matters, save it and name the folder.

    Returns:
        SHA-256 (hex), or nothing where a named file is missing.
    """
    named = {"files": data.files, "tag_decisions": (data.tag_decisions,),
             "fhir_templates": (data.fhir_templates,), "repairs": (data.repairs,)}
    settings = [data.model_dump(mode="json", exclude=set(named)), forget.model_dump(mode="json")]
    if left_out is not None and any(left_out.model_dump().values()):
        settings.append(left_out.model_dump(mode="json"))
    digests: list[str | list[str]] = [digest_of(settings)]
    for kind, names in named.items():
        for name in filter(None, names):
            path = expanded(name)
            if not name.startswith(HUB_PREFIX) and not path.exists():
                return ""
            digest = digest_of_files([path])
            digests.append(digest if kind == "files" else [kind, digest])
    return digest_of(digests)
