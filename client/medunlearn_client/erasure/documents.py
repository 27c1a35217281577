"""The letter to the requester and the report for the officer, as plain documents.

The letter's words come from a template that the hospital may edit. It is rendered in jinja2's
sandbox and knows facts of the registry only. Addressee lines are given when the letter is
printed and kept nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from medunlearn_client.erasure import history
from medunlearn_client.erasure.criteria import RunFigures, luck_granted
from medunlearn_client.erasure.judgements import (
    NEVER_SHOWN,
    changed_criteria,
    figures_in,
    is_judgement,
    judged,
    last_judgement,
    meets_usual_criteria,
    missed,
    never_shown,
    verifying,
)
from medunlearn_client.erasure.registry import Registry
from medunlearn_client.erasure.requests import (
    PATIENT_IDS,
    ErasureRequest,
    Event,
    State,
    basis_in_words,
    fell_short,
    next_step,
    plain_text,
    run_in_words,
    run_of,
)
from medunlearn_common.errors import Misconfigured

MAX_TEMPLATE_BYTES = 1 << 16
MAX_ADDRESS_LINES = 8
_FOR_MACHINES = frozenset({history.FACTS, "claim", "attestation_digest", PATIENT_IDS})
"""Digests that stand elsewhere in the report, or say nothing to a person; and ids, never shown."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of short texts."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """What a page shows, as plain text: whoever lays it out escapes every part.

    Attributes:
        title: Subject of the letter, or title of the report.
        sender: The hospital.
        day: Date of the document.
        paragraphs: Body.
        addressee: Lines of the address; may name the requester.
        tables: After the body.
        foot: Small print.
    """

    title: str
    sender: str
    day: date
    paragraphs: tuple[str, ...]
    addressee: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    foot: str = ""


def letter_template() -> str:
    """The letter as it ships, for a hospital to edit."""
    folder = resources.files("medunlearn_client.erasure") / "templates"
    return (folder / "letter.txt.j2").read_text(encoding="utf-8")


def address_lines(text: str) -> tuple[str, ...]:
    """The lines of an address.

    Raises:
        Misconfigured: ERASURE_TEXT if a line is unfit, ERASURE_ADDRESS if there are too many.
    """
    lines = tuple(
        plain_text(line, what="addressee") for line in text.splitlines() if line.strip()
    )
    if len(lines) > MAX_ADDRESS_LINES:
        raise Misconfigured(
            "ERASURE_ADDRESS", f"the address has more than {MAX_ADDRESS_LINES} lines", "shorten it"
        )
    return lines


def letter(
    registry: Registry, number: int, *, addressee: Sequence[str] = (), template: Path | None = None
) -> Document:
    """The letter that fits the request's present state.

    Raises:
        Misconfigured: ERASURE_UNKNOWN, ERASURE_TEMPLATE.
        Rejected: ERASURE_HISTORY_TAMPERED.
    """
    registry.check()
    text = _rendered(_template_text(template), _letter_facts(registry, number))
    blocks = [" ".join(block.split()) for block in text.replace("\r\n", "\n").split("\n\n")]
    filled = [block for block in blocks if block]
    if not filled:
        raise _bad_template("it renders to nothing")
    return Document(
        title=filled[0], sender=registry.settings().hospital, day=registry.today,
        paragraphs=tuple(filled[1:]), addressee=tuple(addressee),
    )


def _letter_facts(registry: Registry, number: int) -> dict[str, Any]:
    request, events = registry.request(number), registry.events(number)
    settings, verified = registry.settings(), verifying(events)
    figures = figures_in(verified) if verified else None
    answered = _answered_on(registry, request, events)
    found = len(registry.matches(number))
    return {
        "hospital": settings.hospital, "contact": settings.contact,
        "authority": settings.authority, "number": number, "received": request.received,
        "deadline": request.deadline, "extended": request.extended, "state": str(request.state),
        "basis": basis_in_words(request.basis), "law": request.basis, "kind": request.kind,
        # Found were so many; what a run forgot of a patient or concept may be more or fewer.
        "records": figures["forget_records"] if figures else found, "today": registry.today,
        "reason": _latest(events, "reason"), "figures": figures,
        "extension_reason": _latest(events, history.EXTENDED), "percent": _percent,
        "counted": _counted, "fell_short": fell_short(request, events),
        "is_late": answered > request.last_lawful_day,
        "last_day": request.deadline if answered <= request.deadline else request.last_lawful_day,
        "luck": luck_granted(RunFigures(**figures)) if figures else None,
        "usual_criteria_met": verified is not None and meets_usual_criteria(verified),
        "never_shown": verified is not None and never_shown(events),
    }


def _answered_on(registry: Registry, request: ErasureRequest, events: Sequence[Event]) -> date:
    """The day on which the requester had the answer; today, while he has not."""
    last = events[-1]
    answered = request.state is State.ATTESTED or (
        request.state is State.REFUSED and history.TOLD in last.detail)
    return registry.day_of(last) if answered else registry.today


def _latest(events: Sequence[Event], key: str) -> str:
    return next((str(e.detail[key]) for e in reversed(events) if key in e.detail), "")


def _counted(records: int) -> str:
    return "1 record" if records == 1 else f"{records} records"


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{100.0 * share:.1f} %"


def _template_text(path: Path | None) -> str:
    if path is None:
        return letter_template()
    try:
        data = path.read_bytes()
        if len(data) > MAX_TEMPLATE_BYTES:
            raise _bad_template("it is larger than 64 KiB")
        return data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad_template("it cannot be read as UTF-8 text") from error


def _rendered(template: str, facts: Mapping[str, Any]) -> str:
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    try:
        return environment.from_string(template).render(facts)
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise _bad_template(
            # What is not known is named as the template names it; nothing of a record is known.
            f"{error}" if isinstance(error, UndefinedError)
            else f"{type(error).__name__}" + (f" in line {line}" if line else "")
        ) from error
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError,
            ValueError) as error:
        raise _bad_template(f"{type(error).__name__} while it was filled in") from error


def _bad_template(problem: str) -> Misconfigured:
    return Misconfigured(
        "ERASURE_TEMPLATE", f"the letter's template does not work: {problem}",
        "mend it, or begin again with `medunlearn erasure template FILE`",
    )


def officer_report(registry: Registry, number: int) -> Document:
    """Everything that the registry knows of a request, without ids.

    Raises:
        Misconfigured: ERASURE_UNKNOWN.
        Rejected: ERASURE_HISTORY_TAMPERED.
    """
    head = registry.check()
    request, events = registry.request(number), registry.events(number)
    matches = registry.matches(number)
    counted = [(match.reason, match.file_digest) for match in matches]
    found = tuple(
        (reason, digest, str(counted.count((reason, digest))))
        for reason, digest in dict.fromkeys(counted)
    )
    return Document(
        title=f"Erasure request {number}", sender=registry.settings().hospital,
        day=registry.today,
        paragraphs=(
            f"{len(matches)} record(s) in {len({m.file_digest for m in matches})} source(s). A "
            "source is a file, or a folder or FHIR export with all that is in it, as the search "
            "was given it; it is told by its SHA-256, for names of files may name people.",
        ),
        tables=(
            Table(title="Facts", header=("", ""), rows=_facts(request, events)),
            Table(title="What was found and why",
                  header=("matched by", "source (SHA-256)", "records"), rows=found),
            Table(title="History", header=("when (UTC)", "who", "state", "what"),
                  rows=tuple(_event_row(event) for event in events)),
            *(_judgement_table(event) for event in events if is_judgement(event)),
        ),
        foot=f"Digest of the registry's history at printing: {head}. A registry whose history "
             "still leads through this digest was not rewritten since.",
    )


def _facts(request: ErasureRequest, events: Sequence[Event]) -> tuple[tuple[str, str], ...]:
    return (
        ("about", request.about),
        ("legal basis", basis_in_words(request.basis)),
        ("received", request.received.isoformat()),
        ("deadline", f"{request.deadline.isoformat()}"
         + (" (extended, GDPR Art. 12(3))" if request.extended else "")),
        ("state", str(request.state)),
        *_run_facts(request, events),
        ("next step", next_step(request, events) or "none: it is closed"),
    )


def _run_facts(request: ErasureRequest, events: Sequence[Event]) -> tuple[tuple[str, str], ...]:
    """What tells the run that has, settled or gave up the request, where there is one."""
    judged_last = last_judgement(events)
    detail = judged_last.detail if judged_last else {}
    return tuple((name, text) for name, text in (
        ("run", run_in_words(request, events)),
        ("judged by changed criteria", changed_criteria(judged_last)),
        ("before the run", NEVER_SHOWN
         if never_shown(events) and detail.get("run_id") == run_of(events) else ""),
        ("adapter (SHA-256)", detail.get("adapter_digest")),
        ("attestation (SHA-256)", detail.get("attestation_digest")),
    ) if text)


def _event_row(event: Event) -> tuple[str, str, str, str]:
    when = event.at[:len("2026-01-31T12:00")].replace("T", " ")
    what = _outcome(event) if is_judgement(event) else "; ".join(_details(event.detail))
    return when, event.author, str(event.after), what


def _outcome(event: Event) -> str:
    """In a line: figures and criteria have a table of their own."""
    recorded, read_again = missed(event), [each.shortfall for each in judged(event)]
    if sorted(recorded) != sorted(filter(None, read_again)):  # judged by another version
        told = "; ".join(recorded) or "all criteria met"
    else:
        told = f"{len(recorded)} of {len(read_again)} criteria missed" if recorded else (
            "all criteria met")
    return f"run {event.detail.get('run_id', '')}: {told}"


def _judgement_table(event: Event) -> Table:
    return Table(
        title=f"Judgement of run {event.detail.get('run_id', '')}",
        header=("criterion", "asked", "measured", "met"),
        rows=tuple(
            (each.criterion, each.asked, each.measured, "no" if each.shortfall else "yes")
            for each in judged(event)
        ),
    )


def _details(detail: Mapping[str, Any]) -> list[str]:
    """Details in words."""
    shown = []
    for key, value in detail.items():
        if key in _FOR_MACHINES or value is None or value == []:
            continue
        if isinstance(value, Mapping):
            value = ", ".join(
                f"{name.replace('_', ' ')} {number:g}" for name, number in value.items()
            )
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:.4f}"
        shown.append(f"{key.replace('_', ' ')}: {value}")
    return shown
