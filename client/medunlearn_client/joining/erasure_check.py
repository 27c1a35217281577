"""What ``hospital doctor`` finds of the erasure registry that ``site.toml`` names.

Guarantees:
    Requests are spoken of by number; nothing of a patient or a record is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medunlearn_client.erasure import Registry
from medunlearn_client.erasure.claim_file import require_no_claims, require_not_rolled_back
from medunlearn_client.erasure.claims import (
    FORGOTTEN,
    LEFT_OUT,
    left_out_set,
    requests_by_run,
    waiting_requests,
)
from medunlearn_client.erasure.renumbered import (
    REMEDY,
    RENUMBERED,
    SeenRecord,
    renumbered,
    renumbered_message,
)
from medunlearn_client.records import Quarantine, ReadOptions, read_records
from medunlearn_client.records.repairs import NO_REPAIRS, read_repairs
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.site_data import left_out_by
from medunlearn_common.doctor import Finding, ok, problem, warning
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan.sections import DataSection


def erasure_findings(folder: Path, site: SiteConfig) -> Iterator[Finding]:
    """What waits for a run, whether the data hold it, and what is in one.

    Args:
        folder: The hospital's, whose runs say whether there was a registry before.
        site: Its settings.

    Raises:
        Misconfigured: ERASURE_REGISTRY_UNSET, ERASURE_REGISTRY_ROLLBACK or another code of the
            registry, or as :func:`read_records` and :func:`read_repairs`.
        Rejected: ERASURE_HISTORY_TAMPERED.
    """
    if site.registry is None:
        require_no_claims(folder)
        return
    try:
        registry = Registry(site.registry)
    except Misconfigured as error:
        if error.code != "ERASURE_REGISTRY_MISSING":
            raise
        yield _missing(folder, site.registry, error)
        return
    require_not_rolled_back(folder, site.registry)
    for run, numbers in requests_by_run(registry).items():
        yield warning(
            "ERASURE_IN_RUN", f"erasure request(s) {_listed(numbers)} are in run {run}; other "
            "runs leave their records out",
            f"once it is in the inbox: medunlearn hospital measure {run}; if it failed or was "
            "stopped for good: medunlearn erasure reopen NUMBER --reason … --author …, and the "
            "next run takes them")
    waiting = waiting_requests(registry)
    if waiting:
        yield ok("ERASURE_VALIDATED",
                 f"erasure request(s) {_listed(waiting)} wait for the next run")
    else:
        yield warning("ERASURE_NONE_VALIDATED", "no erasure request waits for a run",
                      "without one this hospital only retains; see medunlearn erasure list")
    yield from _data_findings(site.data, registry, waiting)


def _data_findings(
    data: DataSection, registry: Registry, waiting: Sequence[int]
) -> Iterator[Finding]:
    """What the data files hold of requests, whether they wait or were taken."""
    left_out = [request.number for request in registry.requests(LEFT_OUT)]
    matches = {number: registry.matches(number) for number in (*waiting, *left_out)}
    sought = {number: {match.record_id for match in found} for number, found in matches.items()}
    if not sought:
        return
    seen = _seen(data, registry, list(sought))
    ids = {record.record_id for record in seen}
    as_found = {(record.record_id, record.text_digest) for record in seen}
    gone = {record.record_id for record in seen if not record.takes_part}
    kept = [request.number for request in registry.requests(FORGOTTEN)
            if sought[request.number] & gone]
    if kept:
        yield ok(
            "ERASURE_RECORDS_KEPT", f"the data still hold records of request(s) {_listed(kept)}, "
            "which a run has forgotten: later runs leave them out; better still, take them out of "
            "the [data] files, and put the new model in the old one's place")
    elsewhere = renumbered(registry, left_out, seen)
    if elsewhere:
        yield warning(RENUMBERED, renumbered_message(elsewhere), REMEDY)
    # A run knows a record by its words, too: another's row may bear its id.
    lacking = [
        number for number in waiting
        if any(match.record_id not in ids if match.text_digest is None
               else (match.record_id, match.text_digest) not in as_found
               for match in matches[number])
    ]
    if lacking:
        yield problem(
            "ERASURE_RECORDS_MISSING", f"the data lack what request(s) {_listed(lacking)} were "
            "found with: this hospital would refuse every run",
            "name the files that they were found in in [data] files, or medunlearn erasure "
            "withdraw NUMBER --reason … --author …, and add it anew")


def _missing(folder: Path, registry: Path, error: Misconfigured) -> Finding:
    """Not begun yet, or lost: a run's claim is drawn from a registry that is there."""
    if next((folder / "runs").glob("*.erasure"), None) is None:
        return warning(
            error.code, f"{error.message} yet; until there is, this hospital refuses every run",
            f"it begins with the first request: medunlearn erasure add --registry {registry}; "
            "to take part without one: medunlearn erasure settings --set hospital=NAME "
            f"--author YOU --registry {registry}")
    return problem(
        error.code, f"{error.message}, and runs of this hospital have looked into one",
        "put it back from its backup, with its key, or mend [erasure] registry in site.toml; a "
        "new one would know of no request")


def _seen(data: DataSection, registry: Registry, numbers: Sequence[int]) -> list[SeenRecord]:
    """Records that bear an id or words that these requests were found with."""
    found = [match for number in numbers for match in registry.matches(number)]
    ids = {match.record_id for match in found}
    words = {match.text_digest for match in found}
    # What waits teaches nothing either: the next run forgets it.
    is_left_out = left_out_by(left_out_set(registry, numbers), show_subject=False)
    repairs = read_repairs(Path(data.repairs)) if data.repairs else NO_REPAIRS
    records = read_records(
        [Path(name) for name in data.files],
        options=replace(ReadOptions.of_plan(data), for_sums=True),
        quarantine=Quarantine(max_bad_fraction=data.max_bad_fraction))
    mended = (repairs.repaired(record)[0] for record in records)
    seen = (
        SeenRecord.of(record, takes_part=not is_left_out(record), show_subject=False)
        for record in mended
    )
    return [each for each in seen if each.record_id in ids or each.text_digest in words]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
