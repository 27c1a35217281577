"""Between a simulated run and an erasure registry: the forget set comes from it, marks go to it.

    validated -> take, when run.json is written -> in_run -> settle, after result.json

``erasure.json`` in the run's folder keeps the claim, so that a resumed run settles what it
had taken, and ``erasure-figures.json`` each request's figures. What deployed hospitals do alike
lies in :mod:`medunlearn_client.erasure`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from rich.markup import escape

from medunlearn_client.erasure import (
    Claim,
    Registry,
    RunFigures,
    claim_on,
    left_out_set,
)
from medunlearn_client.erasure.claim_file import damaged, keep_claim, taken
from medunlearn_client.erasure.renumbered import (
    REMEDY,
    RENUMBERED,
    SeenRecord,
    renumbered,
    renumbered_message,
)
from medunlearn_client.site_data import FederationRecords
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded
from medunlearn_common.plan.sections import LeftOutSection
from medunlearn_simulation.progress import PhaseBoard
from medunlearn_simulation.run_folder import RunFolder, write_json


def new_claim(registry: Path) -> Claim:
    """A claim on everything that waits for a run; nothing is marked yet.

    Raises:
        Misconfigured: ERASURE_NONE_VALIDATED, or a code of the registry.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    claim = claim_on(Registry(expanded(registry).absolute()))
    if not claim.numbers:
        raise Misconfigured(
            "ERASURE_NONE_VALIDATED", f"no request in {claim.registry.path.name} waits for a run",
            "see `medunlearn erasure due`; validate a request first",
        )
    return claim


def left_out_of(claim: Claim | None) -> LeftOutSection:
    """Whose records are in neither set of the run; nobody's without a registry.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    if claim is None:
        return LeftOutSection()
    return left_out_set(claim.registry, claim.left_out)


def say_renumbered(
    claim: Claim | None, federation: FederationRecords, board: PhaseBoard, *, show_subject: bool
) -> None:
    """Says of which requests that the run leaves out the data hold ids or words apart.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    if claim is None or not claim.left_out:
        return
    gone = (*federation.forget, *federation.left_out)
    kept = (*federation.retain, *federation.nonmembers)
    numbers = renumbered(claim.registry, claim.left_out, (
        SeenRecord.of(record, takes_part=takes_part, show_subject=show_subject)
        for part, takes_part in ((gone, False), (kept, True)) for record in part
    ))
    if numbers:
        board.say(f"[yellow]warning[/] \\[{RENUMBERED}] {renumbered_message(numbers)}")
        board.say(f"  hint: {escape(REMEDY)}")


@contextmanager
def begin(claim: Claim | None, folder: RunFolder, run_id: str) -> Iterator[None]:
    """Takes the requests around the writing of a run's start; gives them back if that fails.

    Raises:
        Rejected: ERASURE_CLAIMED if another run was faster.
    """
    if claim is None:
        yield
        return
    keep_claim(folder.erasure_file, claim)
    with taken(claim, run_id):
        yield


def keep_figures(folder: RunFolder, figures: Mapping[int, RunFigures]) -> None:
    """Writes what the registry will be told, before the result says that the run is complete."""
    write_json(folder.request_figures_file, {str(n): f.as_detail() for n, f in figures.items()})


def kept_figures(folder: RunFolder) -> dict[int, RunFigures]:
    """What :func:`keep_figures` wrote.

    Raises:
        Misconfigured: RUN_FILE_INVALID.
    """
    try:
        return TypeAdapter(dict[int, RunFigures]).validate_json(
            folder.request_figures_file.read_bytes()
        )
    except (OSError, ValidationError) as error:
        raise damaged(folder.erasure_file) from error
