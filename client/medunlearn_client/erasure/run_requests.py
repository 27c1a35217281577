"""The requests that a deployed hospital's runs work for: those of the registry in ``site.toml``.

    ready is asked -> draw: what is validated now, in ``runs/*.erasure`` -> the plan is opened on
    this forget set and passes -> taking: in_run -> the run is held to its records -> ready

Until the last step the next ready draws anew, and what a crash left taken is given back. After it
the run has these requests for good. They are settled by ``medunlearn hospital measure``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medunlearn_client.erasure.claim_file import (
    give_back,
    keep_claim,
    kept_claim,
    require_not_rolled_back,
    taken,
)
from medunlearn_client.erasure.claims import (
    HOSPITAL,
    Claim,
    claim_on,
    forget_set,
    left_out_set,
    requests_by_run,
)
from medunlearn_client.erasure.commitments import commit
from medunlearn_client.erasure.registry import Registry
from medunlearn_client.erasure.renumbered import (
    REMEDY,
    RENUMBERED,
    SeenRecord,
    renumbered,
    renumbered_message,
)
from medunlearn_client.erasure.run_records import (
    requested_records,
    require_same_words,
    require_whole,
    unnamed,
)
from medunlearn_client.run_rules import has_begun
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Rejected

if TYPE_CHECKING:
    from medunlearn_client.site_config import SiteConfig
    from medunlearn_client.site_data import SiteRecords
    from medunlearn_common.plan.sections import ConceptsSection

_LOG = logging.getLogger("medunlearn.hospital")


class RunRequests:
    """Which requests each run of one hospital works for.

    Guarantees:
        * A run's requests are those that were validated when this hospital first said ready in
          it, whatever comes in later; they are its whole forget set here.
        * What an earlier run had forgotten by then, or another run had, is in neither of its sets,
          whatever becomes of it later.
        * They are in_run on disk before anything of the run is released.
        * A run that is refused holds none.
        * No run is drawn from a registry that lacks what an earlier run took from it, nor goes on
          with one.
    """

    def __init__(self, folder: Path, config: SiteConfig, registry: Path) -> None:
        self._folder = folder
        self._config = config
        self._registry = registry

    @classmethod
    def of(cls, folder: Path, config: SiteConfig) -> RunRequests | None:
        """Those of a hospital; None where it names no registry.

        None does not say that no run ever had requests here: :func:`require_no_claims` does.
        """
        return None if config.registry is None else cls(folder, config, config.registry)

    def claim(self, run_id: str) -> Claim | None:
        """What the run holds; None if it never began here, or before there was a registry.

        Raises:
            Misconfigured: RUN_FILE_INVALID, or a code of the registry.
        """
        return self._drawn(run_id) if has_begun(self._folder, run_id) else None

    def draw(self, run_id: str) -> None:
        """Name what waits now as the run's requests, unless it has begun; marks nothing.

        Raises:
            Misconfigured: ERASURE_REGISTRY_ROLLBACK, or another code of the registry.
            Rejected: ERASURE_HISTORY_TAMPERED.
        """
        if has_begun(self._folder, run_id):
            return
        require_not_rolled_back(self._folder, self._registry)
        give_back(self._file(run_id), registry=self._registry, author=HOSPITAL)
        registry = Registry(self._registry)
        claim = claim_on(registry)
        keep_claim(self._file(run_id), claim)
        for other, numbers in requests_by_run(registry).items():
            _LOG.warning(
                "erasure request(s) %s are with run %s and not in this one, which leaves their "
                "records out; if that was given up: medunlearn erasure reopen NUMBER --reason … "
                "--author …",
                ", ".join(map(str, numbers)), other)

    def settings(self, run_id: str) -> SiteConfig:
        """The hospital's settings with the run's forget set, and what it leaves out.

        Raises:
            Rejected: PLAN_UNKNOWN if none was drawn.
            Misconfigured: RUN_FILE_INVALID, or a code of the registry.
        """
        claim = self._drawn(run_id)
        if claim is None:
            raise Rejected("PLAN_UNKNOWN", "this site never said ready in that run",
                           "start the run with READY")
        return self._config.model_copy(update={
            "forget": forget_set(claim.registry, claim.numbers),
            "left_out": left_out_set(claim.registry, claim.left_out),
        })

    @contextmanager
    def unnamed(self, run_id: str) -> Iterator[None]:
        """Around reading the records; raises Misconfigured ERASURE_RECORDS_MISSING."""
        with unnamed(self._drawn(run_id), self._config.data, for_sums=True):
            yield

    @contextmanager
    def taking(
        self, run_id: str, records: SiteRecords, concepts: ConceptsSection
    ) -> Iterator[None]:
        """Takes the requests around what lets the run begin; gives them back if that fails.

        Raises:
            Misconfigured: ERASURE_RECORDS_MISSING, ERASURE_RECORDS_CHANGED.
            Rejected: ERASURE_CLAIMED if another run was faster.
        """
        claim = self._drawn(run_id)
        others = (*records.retain, *records.left_out)
        # First: what has other words is not among the forget records, so it would be missing.
        require_same_words(claim, records.forget, others=others,
                           show_subject=self._config.data.show_subject)
        require_whole(claim, self.by_request(claim, records, concepts),
                      {record.record_id for record in (*records.forget, *others)},
                      forget=records.forget)
        self._warn_of_renumbered(claim, records)
        if claim is None:
            yield
        elif has_begun(self._folder, run_id):  # what is under way gives nothing back
            claim.take(run_id)
            yield
        else:
            with taken(claim, run_id):
                yield

    def _warn_of_renumbered(self, claim: Claim | None, records: SiteRecords) -> None:
        """In this hospital's own log alone: a refusal would tell others of its data."""
        if claim is None or not claim.left_out:
            return
        gone = (*records.forget, *records.left_out)
        numbers = renumbered(claim.registry, claim.left_out, (
            SeenRecord.of(record, takes_part=takes_part,
                          show_subject=self._config.data.show_subject)
            for part, takes_part in ((gone, False), (records.retain, True)) for record in part
        ))
        if numbers:
            _LOG.warning("%s: %s; %s", RENUMBERED, renumbered_message(numbers), REMEDY)

    def by_request(
        self, claim: Claim | None, records: SiteRecords, concepts: ConceptsSection
    ) -> dict[str, frozenset[int]]:
        """Places of the run's forget records by number of the request."""
        return requested_records(
            claim, records.forget, concepts=concepts, data=self._config.data
        )

    def root(self, run_id: str) -> str | None:
        """What stands for the run's requests outside; None where it has none."""
        claim = self._drawn(run_id)
        if claim is None or not claim.numbers:
            return None
        return commit(claim.registry, claim.numbers, run_id=run_id).root

    def _drawn(self, run_id: str) -> Claim | None:
        """Read by the hospital's present registry: its folder may have moved."""
        kept = kept_claim(self._file(run_id), registry=self._registry,
                          taken=has_begun(self._folder, run_id))
        return None if kept is None else replace(kept, author=HOSPITAL)

    def _file(self, run_id: str) -> Path:
        return self._folder / "runs" / f"{digest_of(run_id)}.erasure"
