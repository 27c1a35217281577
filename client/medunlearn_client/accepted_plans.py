"""The plans that a hospital accepted: kept on disk, opened on its records, and held to both.

A run ends as it began: with the plan, the base model and the code that were accepted, and with the
records on which this hospital said ready.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medunlearn_client.erasure.claim_file import require_no_claims
from medunlearn_client.erasure.run_requests import RunRequests
from medunlearn_client.run_rules import (
    has_begun,
    keep_of_plan,
    records_digest,
    records_file,
    require_same_records,
)
from medunlearn_client.site_config import SiteConfig
from medunlearn_client.workbench import Workbench, own_concepts
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Rejected
from medunlearn_common.files import write_atomically
from medunlearn_common.plan import RunPlan, RuntimeOptions

_DIGEST_CHARACTERS = 64


class AcceptedPlans:
    """Plans under ``plans/`` in a hospital's folder; at most one is open, with its model loaded.

    Guarantees:
        * A plan is opened anew only with the base model, tokenizer and code of its acceptance.
        * A run goes on only with the record files and settings with which it began.
        * None begins without a registry of requests where earlier ones took some from one.
    """

    def __init__(self, folder: Path, config: SiteConfig, runtime: RuntimeOptions) -> None:
        self._folder = folder
        self._config = config
        self._runtime = runtime
        self._requests = RunRequests.of(folder, config)
        self._bench: Workbench | None = None
        self._records_digest = ""

    @property
    def is_open(self) -> bool:
        """Whether a plan, and with it the model, is loaded."""
        return self._bench is not None

    def propose(self, plan: RunPlan, *, run_id: str) -> Workbench:
        """Open a plan that this site is asked to be ready for; raises as :meth:`open`."""
        if self._requests is not None:
            self._requests.draw(run_id)
        return self.open(plan, run_id=run_id)

    def open(self, plan: RunPlan, *, run_id: str) -> Workbench:
        """Open the plan on the record files as they lie there now.

        Raises:
            Rejected: DATA_CHANGED.
            Misconfigured: ERASURE_REGISTRY_UNSET.
            MedunlearnError: Whatever model, records and erasure registry are refused with.
        """
        with self._settings(run_id) as config:
            digest = records_digest(config.data, config.forget, config.left_out)
            if digest:  # else the reader says which file is missing
                require_same_records(self._folder, run_id, digest)
            bench = self._bench
            if bench is None or (bench.plan.digest, self._records_digest) != (plan.digest, digest):
                bench = Workbench(self._folder, config, plan, self._runtime)
                self._bench, self._records_digest = bench, digest
        return bench

    @contextmanager
    def _settings(self, run_id: str) -> Iterator[SiteConfig]:
        """The site's, with the forget set of the run; errors then name no id but a request."""
        if self._requests is None:
            # Here and not in propose: a plan that is known is opened for a run without ready, too.
            if not has_begun(self._folder, run_id):
                require_no_claims(self._folder)
            yield self._config
            return
        with self._requests.unnamed(run_id):
            yield self._requests.settings(run_id)

    def keep(self, bench: Workbench, *, run_id: str) -> None:
        """Keep a plan that was accepted, and with what: later requests only name it.

        From here on the run is held to the open records, and holds its erasure requests. Not
        earlier: what a plan was refused for can be mended, and nothing was released or charged.

        Raises:
            Rejected: PUBLIC_FILE_UNKNOWN, ERASURE_CLAIMED.
            Misconfigured: A_FILE_MISSING, ERASURE_RECORDS_ codes.
            Transient: WRITE_FAILED.
        """
        if self._requests is None:
            self._keep(bench, run_id)
            return
        concepts = own_concepts(bench.plan, self._config.public_files)
        with self._requests.taking(run_id, bench.records, concepts):
            self._keep(bench, run_id)

    def _keep(self, bench: Workbench, run_id: str) -> None:
        plan = bench.plan
        write_atomically(self._plan_path(plan.digest), plan.model_dump_json().encode())
        write_atomically(self._opened_path(plan.digest), _opened_with(bench).encode("ascii"))
        keep_of_plan(self._folder, plan, bench.layout, self._config.public_files)
        self._hold_to_open_records(run_id)

    def request_root(self, run_id: str) -> str | None:
        """Root over commitments to what the run is asked to forget; None without requests."""
        if self._requests is None:
            return self._config.request_root
        return self._requests.root(run_id)

    def bench(self, plan_digest: str, *, run_id: str) -> Workbench:
        """The plan of this digest, open for this run; after a restart it is read from disk.

        Raises:
            Rejected: PLAN_DIGEST, PLAN_UNKNOWN or DATA_CHANGED.
        """
        bench = self._bench
        if bench is None or bench.plan.digest != plan_digest or (
            not self._began_with_open_records(run_id)
        ):
            path = self._plan_path(plan_digest)
            never = self._requests is not None and not has_begun(self._folder, run_id)
            if never or not path.is_file():
                raise Rejected(
                    "PLAN_UNKNOWN", "a request belongs to a plan this site never accepted",
                    "start the run with READY",
                )
            bench = self.open(RunPlan.model_validate_json(path.read_bytes()), run_id=run_id)
            self._require_as_accepted(bench)
            self._hold_to_open_records(run_id)
        return bench

    def _plan_path(self, digest: str) -> Path:
        if len(digest) != _DIGEST_CHARACTERS or not set(digest) <= set("0123456789abcdef"):
            raise Rejected("PLAN_DIGEST", "a plan digest is no SHA-256", "update the coordinator")
        return self._folder / "plans" / f"{digest}.json"

    def _opened_path(self, digest: str) -> Path:
        return self._plan_path(digest).with_suffix(".opened")

    def _require_as_accepted(self, bench: Workbench) -> None:
        """Refuse to go on, after a restart, with another model or code than was accepted.

        READY looks at both: the policy, the offer and the coordinator each have their say.
        """
        path = self._opened_path(bench.plan.digest)
        if not path.is_file() or path.read_text("ascii") != _opened_with(bench):
            self._bench, self._records_digest = None, ""
            raise Rejected(
                "PLAN_UNKNOWN", "this plan was accepted with another base model or other code",
                "put them back, or let the coordinator greet this site anew",
            )

    def _began_with_open_records(self, run_id: str) -> bool:
        """Whether a run began with the records that are open: another run of the same plan may
        have opened others since."""
        path = records_file(self._folder, run_id)
        return path.is_file() and path.read_text("ascii") == self._records_digest

    def _hold_to_open_records(self, run_id: str) -> None:
        if not has_begun(self._folder, run_id):
            path = records_file(self._folder, run_id)
            write_atomically(path, self._records_digest.encode("ascii"))


def _opened_with(bench: Workbench) -> str:
    """SHA-256 (hex) over what a plan was accepted with: base model, tokenizer and code."""
    return digest_of([bench.model_digest, bench.tokenizer_digest, installed_code_digest()])
