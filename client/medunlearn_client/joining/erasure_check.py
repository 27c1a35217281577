"""What ``hospital doctor`` finds of the erasure registry that ``site.toml`` names.

Guarantees:
    Requests are spoken of by number; nothing of a patient or a record is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medunlearn_client.erasure import Registry
from medunlearn_client.erasure.claims import requests_by_run, waiting_requests
from medunlearn_client.records import Quarantine, ReadOptions
from medunlearn_client.records.reading import stream_records
from medunlearn_client.site_config import SiteConfig
from medunlearn_common.doctor import Finding, ok, problem, warning
from medunlearn_common.plan.sections import DataSection


def erasure_findings(site: SiteConfig) -> Iterator[Finding]:
    """What waits for a run, whether the data hold it, and what is in one.

    Raises:
        Misconfigured: A code of the registry, or as :func:`stream_records`.
        Rejected: ERASURE_HISTORY_TAMPERED.
    """
    if site.registry is None:
        return
    registry = Registry(site.registry)
    for run, numbers in requests_by_run(registry).items():
        yield warning(
            "ERASURE_IN_RUN", f"erasure request(s) {_listed(numbers)} are in run {run}",
            f"once it is in the inbox: medunlearn hospital measure {run}; if it failed or was "
            "stopped for good: medunlearn erasure reopen NUMBER, and the next run takes them")
    waiting = waiting_requests(registry)
    if not waiting:
        yield warning("ERASURE_NONE_VALIDATED", "no erasure request waits for a run",
                      "without one this hospital only retains; see medunlearn erasure due")
        return
    yield ok("ERASURE_VALIDATED", f"erasure request(s) {_listed(waiting)} wait for the next run")
    lacking = _lacking(site.data, registry, waiting)
    if lacking:
        yield problem(
            "ERASURE_RECORDS_MISSING", f"the data lack what request(s) {_listed(lacking)} were "
            "found with: this hospital would refuse every run",
            "name the files that they were found in in [data] files, or medunlearn erasure "
            "withdraw NUMBER and add it anew")


def _lacking(data: DataSection, registry: Registry, numbers: Sequence[int]) -> list[int]:
    """Requests that were found with a record that is not in the files."""
    missing = {number: {m.record_id for m in registry.matches(number)} for number in numbers}
    records = stream_records(
        [Path(name) for name in data.files],
        options=replace(ReadOptions.of_plan(data), for_sums=True),
        quarantine=Quarantine(max_bad_fraction=data.max_bad_fraction))
    for record in records:
        for ids in missing.values():
            ids.discard(record.record_id)
    return [number for number, ids in missing.items() if ids]


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
