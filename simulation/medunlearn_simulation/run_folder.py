"""The folder of one simulated run: what lies where, and which folder may be used.

    plan.toml            the plan as it was run, paths made absolute
    run.json             run id, runner and where the models lie
    seconds.json         what each phase took, over all processes of the run
    erasure.json         requests that the run works for, where a registry was named
    erasure-figures.json each request's own figures
    demo.jsonl           the embedded records, where no data were given
    quarantine.jsonl     numbers and reasons of bad rows, if there were any
    sites/site-0/...     what one hospital keeps: site.json, ledger, answers
    hospitals.log        what hospitals of a run in memory said of their errors
    checkpoint.bin ...   state and events of the coordinator
    snapshots/           the released adapter after chosen rounds
    adapter/             the PEFT adapter, with medunlearn.json beside it
    result.json, report.html
    identity.key, audit.db   the coordinator's key and audit log; sites have their own
    roster.json          public keys of all parties
    run-plan.json        the shared part of the plan, as its digest is taken
    audit-log.jsonl, attestation.json   for `medunlearn verify`; a copy beside the adapter
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medunlearn_common.digests import digest_of
from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import expanded, write_atomically
from medunlearn_common.invocation import command_name
from medunlearn_common.plan import Plan, plan_template, read_plan

RUN_SCHEMA_VERSION: Final = 1
_BEFORE_THE_RUN = {"demo.jsonl", "quarantine.jsonl"}


class RunFacts(BaseModel):
    """Contents of ``run.json``: what a resumption needs beyond the plan.

    Attributes:
        schema_version: Version of this file.
        run_id: Name of the run in the protocol.
        runner: ``flower`` or ``memory``.
        model: Folder or hub id of the base model.
        retrained: Folder of the retrained model, or None.
        package_version: Version that started the run.
        plan_digest: SHA-256 over everything that plan.toml says.
        records_digest: SHA-256 over the record files and what they are read with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = RUN_SCHEMA_VERSION
    run_id: str
    runner: Literal["flower", "memory"]
    model: str
    retrained: str | None
    package_version: str
    plan_digest: str | None = None
    records_digest: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Places inside one run's folder.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def plan_file(self) -> Path:
        """The plan as it was run."""
        return self.root / "plan.toml"

    @property
    def run_file(self) -> Path:
        """See :class:`RunFacts`."""
        return self.root / "run.json"

    @property
    def seconds_file(self) -> Path:
        """What each phase took so far; see ``PhaseBoard.keep_in``."""
        return self.root / "seconds.json"

    @property
    def erasure_file(self) -> Path:
        """Requests that the run works for; see ``erasure``."""
        return self.root / "erasure.json"

    @property
    def request_figures_file(self) -> Path:
        """Each request's own figures; see ``erasure``."""
        return self.root / "erasure-figures.json"

    @property
    def demo_file(self) -> Path:
        """The embedded records."""
        return self.root / "demo.jsonl"

    @property
    def quarantine_file(self) -> Path:
        """Bad rows, without their text."""
        return self.root / "quarantine.jsonl"

    @property
    def adapter(self) -> Path:
        """The finished adapter."""
        return self.root / "adapter"

    @property
    def snapshots(self) -> Path:
        """Released adapters of chosen rounds."""
        return self.root / "snapshots"

    @property
    def result_file(self) -> Path:
        """Every figure of the run."""
        return self.root / "result.json"

    @property
    def report_file(self) -> Path:
        """The report for the eye."""
        return self.root / "report.html"

    def site(self, index: int) -> Path:
        """One hospital's folder."""
        return self.root / "sites" / f"site-{index}"

    def write_start(self, plan: Plan, facts: RunFacts) -> None:
        """Writes plan and facts; ``run.json`` comes last and says that the run may be resumed."""
        write_atomically(self.plan_file, plan_template(plan).encode("utf-8"))
        facts = facts.model_copy(update={"plan_digest": _digest(plan)})
        write_atomically(self.run_file, facts.model_dump_json(indent=2).encode("utf-8"))

    def read_start(self) -> tuple[Plan, RunFacts]:
        """Plan and facts of a run to resume.

        Raises:
            Misconfigured: RESUME_NOTHING, RUN_FILE_INVALID, RUN_PLAN_CHANGED or a code of the
                plan.
        """
        if not self.run_file.is_file():
            raise Misconfigured(
                "RESUME_NOTHING", f"{self.root} holds no run that can go on",
                "name the --out folder of an earlier run, or start a new one",
            )
        try:
            facts = RunFacts.model_validate_json(self.run_file.read_text(encoding="utf-8"))
        except (ValidationError, ValueError) as error:
            raise Misconfigured(
                "RUN_FILE_INVALID", f"{self.run_file} is damaged or of another version",
                "start a new run",
            ) from error
        plan = read_plan(self.plan_file)
        if facts.plan_digest not in (None, _digest(plan)):
            raise Misconfigured(
                "RUN_PLAN_CHANGED", f"{self.plan_file} is not the plan that the run began with",
                "put the old plan back, or start a new run with the new one",
            )
        return plan, facts


def _digest(plan: Plan) -> str:
    return digest_of(plan.model_dump(mode="json"))


def new_run_folder(out: Path | None, name: str) -> RunFolder:
    """The folder of a new run: ``out``, or ``runs/NAME-TIME``; nothing is created yet.

    Raises:
        Misconfigured: OUT_EXISTS if something is there already, OUT_NOT_A_FOLDER.
    """
    if out is None:
        out = Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    root = expanded(out).absolute()
    if root.exists() and not root.is_dir():
        raise Misconfigured("OUT_NOT_A_FOLDER", f"{out} is a file", "choose another --out")
    if root.is_dir() and {path.name for path in root.iterdir()} - _BEFORE_THE_RUN:
        hint = "choose another --out"
        if RunFolder(root=root).run_file.is_file():
            hint += f", or go on with: {command_name()} simulate --resume {out}"
        raise Misconfigured("OUT_EXISTS", f"{out} is not empty", hint)
    return RunFolder(root=root)


def write_json(path: Path, value: Any, *, private: bool = True) -> None:
    """Writes indented JSON whole or not at all; NaN is refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode("utf-8"), private=private)
