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
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.markup import escape

from medunlearn_client.erasure import (
    Claim,
    Registry,
    RunFigures,
    State,
    claim_on,
    left_out_set,
    shortfalls,
)
from medunlearn_client.erasure.claim_file import damaged, keep_claim, taken
from medunlearn_client.erasure.claims import FORGOTTEN, requests_by_run
from medunlearn_client.erasure.renumbered import (
    REMEDY,
    RENUMBERED,
    SeenRecord,
    renumbered,
    renumbered_message,
)
from medunlearn_client.erasure.requests import run_of
from medunlearn_client.site_data import FederationRecords, left_out_by
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded
from medunlearn_common.plan.sections import LeftOutSection
from medunlearn_simulation.outcome import counted
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
            "ERASURE_NONE_VALIDATED", f"no request in {registry} waits for a run",
            f"see `medunlearn erasure list`; validate a request first{_in_runs(claim.registry)}",
        )
    return claim


def _in_runs(registry: Registry) -> str:
    """Requests that wait for nothing, as a run that may have stopped has them."""
    return "".join(
        f"; request(s) {', '.join(map(str, numbers))} are in run {run}: resume it, or take them "
        "back with `medunlearn erasure reopen NUMBER --reason … --author …`"
        for run, numbers in requests_by_run(registry).items()
    )


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


def left_out_by_request(
    claim: Claim | None, federation: FederationRecords, *, show_subject: bool
) -> dict[int, int]:
    """How many records the run leaves out for each request; those with none are not named.

    A record that two requests name counts for both.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    if claim is None or not federation.left_out:
        return {}
    counts = {}
    for number in claim.left_out:
        section = left_out_set(claim.registry, [number])
        is_its_own = left_out_by(section, show_subject=show_subject)
        counts[number] = sum(map(is_its_own, federation.left_out))
    return {number: count for number, count in counts.items() if count}


def say_left_out(
    claim: Claim | None, federation: FederationRecords, board: PhaseBoard, *, show_subject: bool
) -> None:
    """Says of which requests the run leaves out how many records, and why.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    counts = left_out_by_request(claim, federation, show_subject=show_subject)
    if claim is not None and counts:
        named = ", ".join(
            f"request {number} ({_standing(claim.registry, number)}, {counted(count, 'record')})"
            for number, count in counts.items()
        )
        board.say(escape(f"left out of both sets, and not taught again: {named}"))


def _standing(registry: Registry, number: int) -> str:
    """Why the request is left out, or what became of it since the run began."""
    state = registry.request(number).state
    if state is State.IN_RUN:
        return f"in run {run_of(registry.events(number))}"
    return str(state) if state in FORGOTTEN else f"{state} since"


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


def erasure_section(
    claim: Claim | None, figures: Mapping[int, RunFigures], left_out: Mapping[int, int]
) -> dict[str, Any] | None:
    """What the result says of the run's requests; None without a registry.

    A request's own figures, often one patient's, stay out of it: the report is passed on.

    Args:
        claim: The requests.
        figures: Each one's own.
        left_out: Records that were left out, by number of the request.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
        Transient: ERASURE_REGISTRY_UNAVAILABLE.
    """
    if claim is None:
        return None
    settings, held = claim.registry.settings(), claim.held()

    def outcome(number: int) -> str:
        if number not in held:
            return "taken back"
        return "fell short" if shortfalls(figures[number], settings) else "verified"

    return {
        "requests": [
            {"number": number, "records": own.forget_records, "outcome": outcome(number)}
            for number, own in figures.items()
        ],
        "left_out": [{"number": n, "records": count} for n, count in left_out.items()],
    }


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
