"""``medunlearn erasure add``: a request comes in, and the records it means are looked for.

Ids, names, birth dates and identifiers are taken, used for the search, and not shown. The
module lies outside the package ``erasure`` so that mounting the command imports nothing of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from getpass import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medunlearn_client.reading_options import FormatOption, PlanOption, reading_of
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import ForgetSection, Plan

if TYPE_CHECKING:
    from medunlearn_client.erasure.finding import Found, Tagger, Wanted
    from medunlearn_client.erasure.registry import Registry
    from medunlearn_client.erasure.requests import ErasureRequest, Kind
    from medunlearn_client.records import Quarantine

ASK = "-"
DEFAULT_REGISTRY = Path("erasure.sqlite")

RegistryOption = Annotated[
    Path, typer.Option("--registry", "-r", envvar="MEDUNLEARN_ERASURE_REGISTRY",
                       help="The hospital's registry.")
]
AuthorOption = Annotated[
    str, typer.Option("--author", envvar="MEDUNLEARN_OFFICER", show_default=False,
                      help="Who does this; stands in the history.")
]


def add(
    author: AuthorOption,
    basis: Annotated[
        str, typer.Option("--basis", help="a to f of GDPR Art. 17(1), or another law in words; "
                          "`validate --basis` corrects it.", show_default=False)
    ],
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="File, folder or archive to search; repeat for several; "
                     "default: the plan's."),
    ] = None,
    plan: PlanOption = None,
    patient: Annotated[
        str | None, typer.Option("--patient", help="Patient id; - asks for it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Full name, with --birth-date; - asks for it.")
    ] = None,
    birth_date: Annotated[
        str | None, typer.Option("--birth-date", help="As in the records; - asks for it.")
    ] = None,
    identifier: Annotated[
        str | None, typer.Option("--identifier", help="Any identifier; - asks for it.")
    ] = None,
    record: Annotated[
        str | None, typer.Option("--record", help="Record id, with --patient where several "
                                  "patients' rows bear it; - asks for it.")
    ] = None,
    data_set: Annotated[
        Path | None, typer.Option("--data-set", help="One of the --data files, withdrawn whole.")
    ] = None,
    concept: Annotated[
        str | None, typer.Option("--concept", help="Concept id, with all below it.")
    ] = None,
    hierarchy: Annotated[
        list[str] | None,
        typer.Option("--hierarchy", help="Hierarchy of the concept; default: the plan's, or the "
                     "built-in ones."),
    ] = None,
    record_format: FormatOption = None,
    received: Annotated[
        str | None, typer.Option("--received", help="Day of receipt, YYYY-MM-DD; else today.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Register beside an open request for the same.")
    ] = False,
    nothing_held: Annotated[
        bool, typer.Option("--nothing-held", help="Register although nothing was found.")
    ] = False,
    registry: RegistryOption = DEFAULT_REGISTRY,
) -> None:
    """Register a request and look for the records it means.

    A value given as - is asked for, so that it enters neither the shell's history nor the
    list of processes.

    Examples:

      medunlearn erasure add --patient - --basis b --data ours.jsonl --author "A. Officer"

      medunlearn erasure add --name - --birth-date - --basis b --data ours.jsonl --author AO

      medunlearn erasure add --patient - --basis b --plan plan.toml --author "A. Officer"

      medunlearn erasure add --data-set study.jsonl --data study.jsonl --basis d --author AO
    """
    from dataclasses import replace

    from medunlearn_client.erasure.finding import find_records
    from medunlearn_client.erasure.registry import NewRequest
    from medunlearn_client.erasure.requests import legal_basis, next_step, parsed_date
    from medunlearn_client.records import Quarantine
    from medunlearn_client.records.repairs import NO_REPAIRS, read_repairs

    wanted = _wanted(
        {"patient_id": patient, "name": name, "birth_date": birth_date, "identifier": identifier,
         "record_id": record}, data_set, concept,
    )
    basis = legal_basis(basis)  # before a long search, and before a registry is begun
    reading = reading_of(data, plan, record_format)
    tagger = _tagger(concept, hierarchy, reading.plan) if concept is not None else None
    day = parsed_date(received) if received is not None else None
    mended = reading.plan.data.repairs
    held = Quarantine(max_bad_fraction=reading.plan.data.max_bad_fraction)
    found = find_records(
        wanted, reading.files, tagger=tagger,
        options=replace(reading.options, for_sums=reading.of_hospital),
        repairs=read_repairs(Path(mended)) if mended else NO_REPAIRS,
        quarantine=held,
    )
    unsearched = _unsearched_lines(found, held)
    if found.target is None and not nothing_held:
        why = "".join(f"; {line}" for line in (*unsearched, *_near_lines(found)))
        raise Misconfigured(
            "ERASURE_NOT_FOUND", f"nothing in the files matches; nothing was registered{why}",
            f"check spelling and files{_date_hint(wanted)}; --nothing-held registers the request "
            "so that it can be answered",
        )
    opened = open_registry(registry, create=True)
    request = opened.add(
        NewRequest(kind=wanted.kind, target=found.target, matches=found.matches, basis=basis,
                   received=day or opened.today, again=again, unread=found.unread,
                   near=found.near, patient_ids=found.patient_ids),
        author=author,
    )
    _tell(request, found, unsearched, is_late=opened.today > request.last_lawful_day)
    typer.echo(f"next: {next_step(request, ())}")


def _date_hint(wanted: Wanted) -> str:
    if wanted.birth_date is None:
        return ""
    return "; write the birth date as the files do, such as 1924-12-30"


def _unsearched_lines(found: Found, held: Quarantine) -> list[str]:
    """What of the files could not be searched; who was not found may stand there."""
    from medunlearn_client.records.fhir.export import NEXT_PAGE
    from medunlearn_client.records.reading import LOST_NUMBER
    from medunlearn_client.records.row_file import EMPTY_FILE, OTHER_FILE
    from medunlearn_client.records.spreadsheets import OTHER_SHEET

    counted = (
        (found.unread, "row(s) could not be read and were not searched"),
        (held.set_aside[OTHER_FILE], "file(s) of another kind were not searched"),
        (held.set_aside[EMPTY_FILE], "file(s) hold no row, as where a copy of them failed"),
        (held.set_aside[NEXT_PAGE], "bundle(s) name a next page, which was not searched"),
        (held.set_aside[OTHER_SHEET], "further sheet(s) of workbooks were not searched"),
        (held.set_aside[LOST_NUMBER],
         "row(s) repeat another's words, and were not searched by their own numbers or names"),
    )
    return [f"{count} {what}" for count, what in counted if count]


def _tell(
    request: ErasureRequest, found: Found, unsearched: Sequence[str], *, is_late: bool
) -> None:
    typer.echo(f"request {request.number}: received {request.received}, "
               f"to be answered by {request.deadline}" + ", which is over" * is_late)
    for reason, count in found.reasons.items():
        typer.echo(f"  {count} record(s) by {reason}")
    if found.mentions:
        typer.echo(f"  {found.mentions} record(s) of other patients mention what was searched; "
                   "they are not part of the request")
    for line in (*unsearched, *_near_lines(found)):
        typer.echo(f"  {line}")


def _near_lines(found: Found) -> list[str]:
    return [
        f"{count} record(s) come near by {reason}: they are not part of the request, so look at "
        "them, and enter one of their own for those that are the patient's"
        for reason, count in found.near.items()
    ]


def _wanted(
    values: dict[str, str | None], data_set: Path | None, concept: str | None
) -> Wanted:
    from medunlearn_client.erasure.finding import Wanted

    asked = {key: _asked(key, value) for key, value in values.items() if value is not None}
    kind: Kind = "record" if "record_id" in asked else "patient"
    if not asked:
        kind = "concept" if concept is not None else "data_set"
    return Wanted(kind=kind, data_set=data_set, concept_id=concept, **asked)


def _asked(key: str, value: str) -> str:
    """The value, read without echo where it was given as ``-``; one line of a pipe elsewhere."""
    if value != ASK:
        return value.strip()
    what = key.replace("_", " ")
    typed = getpass(f"{what}: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not typed.strip():
        raise Misconfigured("ERASURE_WANTED", f"no {what} was given",
                            "type it when asked, or pass it as one line on standard input")
    return typed.strip()


def _tagger(concept: str, hierarchies: list[str] | None, plan: Plan) -> Tagger:
    """What chooses a run's forget set: by the plan's hierarchies, or by those that are named.

    With the decisions that the plan names, so that what is found is what a run forgets.
    """
    from medunlearn_client.site_data import record_tagger

    planned = plan.concepts
    if hierarchies:
        planned = planned.model_copy(update={"hierarchies": tuple(hierarchies)})
    without_roots = planned.model_copy(update={"forget_roots": ()})
    try:
        return record_tagger(without_roots, ForgetSection(concepts=(concept,)), plan.data)
    except Misconfigured as error:
        if error.code == "CONCEPT_ROOT_UNKNOWN":
            error.hint += "; `medunlearn concepts search WORDS` finds ids by name"
        raise


def open_registry(path: Path, *, create: bool = False) -> Registry:
    """The registry; made anew where it is missing and ``create`` is set, which is said."""
    from medunlearn_client.erasure.registry import Registry

    registry = Registry(path, create=create)
    if registry.begun:
        typer.echo(f"began a new registry {registry.path}", err=True)
    return registry
