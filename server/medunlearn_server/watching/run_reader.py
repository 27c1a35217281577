"""Reads one run's folder into a :class:`RunView`; writes nothing, waits for nobody.

Sources, each of which may be missing: ``plan.toml``, the plain values of ``checkpoint.bin``
(what a resumed run would go on from: complete rounds only), ``audit.db``, ``gates.json``,
``exchange.json``, ``attestation.json``. What cannot be read is named by its code and left out.
The events file is not read: a run that is killed between its checkpoint and its event lacks
that line for ever, or has half of it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

from medunlearn_common.attestation.dsse import named_signer
from medunlearn_common.attestation.files import ATTESTATION_FILE
from medunlearn_common.audit.kinds import code, digest, name, person
from medunlearn_common.audit.kinds import run_id as is_run_id
from medunlearn_common.audit.records import AuditRecord
from medunlearn_common.errors import MedunlearnError
from medunlearn_common.plan import read_plan
from medunlearn_server.checkpoints import values_shown
from medunlearn_server.gatekeeper import GATES_FILE
from medunlearn_server.gates import GATES
from medunlearn_server.reports import EvaluationReport, RoundReport, VoteReport, from_plain
from medunlearn_server.service.runs_db import RunRow
from medunlearn_server.watching.exchanges import read_exchange
from medunlearn_server.watching.log_reader import LogReader
from medunlearn_server.watching.views import (
    UNREADABLE,
    AttestationView,
    GateView,
    LogView,
    PlanView,
    RunView,
    SiteView,
)

PLAN_FILE, CHECKPOINT_FILE, AUDIT_FILE = "plan.toml", "checkpoint.bin", "audit.db"
_ATTESTED, _DECISIONS = ("published", "attested"), ("countersigned", "objected")
_MAX_FILE_BYTES = 32 << 20
_PHASES = {"ready": "gathering", "vote": "support", "rounds": "rounds", "finished": "finished"}
_Value = TypeVar("_Value")


class RunReader:
    """Reads one folder again and again; a file that did not change is not parsed anew."""

    def __init__(self, folder: Path, *, published: Path | None = None) -> None:
        """Prepare.

        Args:
            folder: The run's folder.
            published: Where its attestation may lie as well.
        """
        self._folder = folder
        self._published = published
        self._log = LogReader(folder / AUDIT_FILE)
        self._kept: dict[Path, tuple[tuple[int, int, int], Any]] = {}
        self._troubles: set[str] = set()

    def read(self, row: RunRow | None = None) -> RunView:
        """The run as it is now.

        Args:
            row: What the registry says of it; None for a run outside of any service.
        """
        self._troubles.clear()
        log = self._try(self._log.read) or LogView()
        if log.first_bad is not None:
            self._troubles.add("AUDIT_LOG_DAMAGED")
        values = self._unchanged(self._folder / CHECKPOINT_FILE, values_shown) or {}
        # What is broken in a checkpoint takes neither the page nor other runs' down.
        view = self._try(lambda: self._view(row, log, values)) or self._view(row, log, {})
        return replace(view, troubles=tuple(sorted(self._troubles)))

    def _view(self, row: RunRow | None, log: LogView, values: Mapping[str, Any]) -> RunView:
        view = RunView(
            run_id=_lawful(is_run_id, row.run_id if row else values.get("run_id", "")),
            state=row.shown_state if row else _guessed_state(values, log),
            phase=_phase(values), created=_began(row, log), updated=row.updated if row else 0.0,
            starts=row.starts if row else 0, failure=_failure(row, log),
            plan_digest=_lawful(digest, values.get("plan_digest") or
                                (row.plan_digest if row else "")),
            plan=self._unchanged(self._folder / PLAN_FILE, _plan),
            vote=_vote(values), rounds=tuple(_rounds(values)), evaluation=_evaluation(values),
            reason=_lawful(name, (values.get("state") or {}).get("reason") or ""),
            adapter_digest=_lawful(digest, (values.get("outcome") or {}).get("adapter_digest")
                                   or ""),
            exchange=read_exchange(self._folder), log=log, attestation=self._attestation(log),
            gates=self._unchanged(self._folder / GATES_FILE, _gates) or (),
        )
        return replace(view, epsilon=_epsilon(values, view), sites=_sites(view),
                       gates=view.gates or _norm_gate(view))

    def _attestation(self, log: LogView) -> AttestationView | None:
        named = {r.fields["attestation_digest"] for r in log.records if r.kind in _ATTESTED}
        for folder in (self._folder, self._published):
            if folder is None:
                continue
            found = self._unchanged(folder / ATTESTATION_FILE, _attested)
            if found is not None:
                said = decisions(log.records, found.digest)
                return replace(
                    found, in_log=found.digest in named,
                    countersigned=tuple(s for s in sorted(said) if said[s] == "countersigned"),
                    objected=tuple(s for s in sorted(said) if said[s] == "objected"),
                )
        return None

    def _unchanged(self, path: Path, parse: Callable[[Path], _Value]) -> _Value | None:
        """The parsed file, from memory if it is the same as before; None if there is none."""
        try:
            stat = path.stat()
        except OSError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        kept = self._kept.get(path)
        if kept is None or kept[0] != stamp:
            kept = self._kept[path] = (stamp, self._try(lambda: parse(path)))
            if kept[1] is None:
                self._kept.pop(path)  # look again, and name the trouble again
        found: _Value | None = kept[1]
        return found

    def _try(self, action: Callable[[], _Value]) -> _Value | None:
        try:
            return action()
        except MedunlearnError as error:
            self._troubles.add(error.code)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError,
                RecursionError):
            self._troubles.add("FILE_UNREADABLE")
        return None


def decisions(records: Sequence[AuditRecord], attestation_digest: str) -> dict[str, str]:
    """What each hospital last said of an attestation: countersigned or objected, by site."""
    return {
        str(record.fields["site"]): record.kind for record in records
        if record.kind in _DECISIONS
        and record.fields["attestation_digest"] == attestation_digest
    }


def _lawful(check: Callable[[Any], bool], value: Any) -> str:
    """The text if it is one that the protocol gives; empty stays empty."""
    return "" if value == "" else str(value) if check(value) else UNREADABLE


def _bytes_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise ValueError("larger than any such file")
    return data


def _plan(path: Path) -> PlanView:
    plan = read_plan(path)
    noisy = plan.privacy.noise != "none"
    return PlanView(
        name=plan.run.name, sites=plan.federation.sites, min_sites=plan.federation.min_sites,
        rounds=plan.run.rounds, epsilon=plan.privacy.epsilon if noisy else None,
        delta=plan.privacy.delta, noise=plan.privacy.noise, unit=plan.privacy.unit,
        objective=plan.objective.name, support=plan.support.method,
    )


def _phase(values: Mapping[str, Any]) -> str:
    state = values.get("state")
    if state is None:
        return "gathering"
    over = state["next_round"] >= state["rounds"] or values.get("evaluation") is not None
    return "evaluation" if state["phase"] == "rounds" and over else _PHASES[state["phase"]]


def _rounds(values: Mapping[str, Any]) -> list[RoundReport]:
    return [_clean(from_plain(RoundReport, entry)) for entry in values.get("curve") or ()]


def _clean(report: RoundReport) -> RoundReport:
    """Only lawful names and codes, and numbers that are numbers."""
    for field in fields(report):
        value = getattr(report, field.name)
        number = ("int", "float") if value is None else ("int", "float", "float | None")
        if field.type in number and not isinstance(value, int | float):
            raise TypeError(field.name)
    return replace(
        report, sites=tuple(_lawful(name, site) for site in report.sites),
        failures={_lawful(name, s): _lawful(code, c) for s, c in report.failures.items()},
        bytes_up=_sizes(report.bytes_up), bytes_down=_sizes(report.bytes_down),
        sum_digest=_lawful(digest, report.sum_digest),
    )


def _sizes(sizes: Mapping[str, Any]) -> dict[str, int]:
    return {_lawful(name, site): int(size) for site, size in sizes.items()}


def _vote(values: Mapping[str, Any]) -> VoteReport | None:
    learning = values.get("learning")
    if learning is None:
        return None
    vote = from_plain(VoteReport, learning["vote"])
    return replace(
        vote, method=_lawful(name, vote.method), sites=tuple(_lawful(name, s) for s in vote.sites),
        support_digest=_lawful(digest, vote.support_digest), size=int(vote.size),
        bytes_up=_sizes(vote.bytes_up), bytes_down=_sizes(vote.bytes_down),
    )


def _evaluation(values: Mapping[str, Any]) -> EvaluationReport | None:
    found = values.get("evaluation")
    if found is None:
        return None
    report = from_plain(EvaluationReport, found)
    return replace(
        report, sites=tuple(_lawful(name, s) for s in report.sites),
        failure=_lawful(code, report.failure), forget=tuple(map(float, report.forget)),
        retain=tuple(map(float, report.retain)),
        canary_before=tuple(map(float, report.canary_before)),
        canary_after=tuple(map(float, report.canary_after)),
        bytes_up=_sizes(report.bytes_up), bytes_down=_sizes(report.bytes_down),
    )


def _epsilon(values: Mapping[str, Any], view: RunView) -> float | None:
    """Spent so far; once the sites have counted, and until the end, all that they may spend."""
    spent = (values.get("outcome") or {}).get("epsilon")
    if spent is None and view.latest is not None:
        spent = view.latest.epsilon
        if spent is not None and view.evaluation is not None and view.evaluation.sites:
            spent = view.plan.epsilon if view.plan is not None else None
    return float(spent) if spent is not None else None


def _gates(path: Path) -> tuple[GateView, ...]:
    return tuple(_gate(entry) for entry in json.loads(_bytes_of(path))["gates"])


def _gate(entry: Mapping[str, Any]) -> GateView:
    value = entry["value"]
    return GateView(
        gate=entry["gate"] if entry["gate"] in GATES else UNREADABLE,
        passed=entry["passed"] is True, limit=float(entry["limit"]),
        value=float(value) if value is not None and isfinite(value) else None,
        overridden_by=_lawful(person, entry.get("overridden_by", "")),
    )


def _norm_gate(view: RunView) -> tuple[GateView, ...]:
    """Before the end: the round that came nearest to its bound."""
    found = [_gate(report.norm_gate) for report in view.rounds if report.norm_gate]
    worst = max(found, key=lambda g: (not g.passed, (g.value or 0.0) / g.limit), default=None)
    return () if worst is None else (worst,)


def _attested(path: Path) -> AttestationView:
    data = _bytes_of(path)
    return AttestationView(
        digest=hashlib.sha256(data).hexdigest(), in_log=False,
        signer=_lawful(name, named_signer(data)),
    )


def _guessed_state(values: Mapping[str, Any], log: LogView) -> str:
    if values.get("outcome") is not None:
        return "finished"
    last = log.records[-1].kind if log.records else ""
    return "failed" if last == "run_stopped" else "running" if values or log.records else "pending"


def _began(row: RunRow | None, log: LogView) -> float:
    return row.created if row else float(log.records[0].at) if log.records else 0.0


def _failure(row: RunRow | None, log: LogView) -> str:
    if row is not None:
        return _lawful(code, row.failure_code)
    last = log.records[-1] if log.records else None
    return str(last.fields["code"]) if last is not None and last.kind == "run_stopped" else ""


def _sites(view: RunView) -> tuple[SiteView, ...]:
    """Everybody who agreed, answered or refused, from rounds, vote, evaluation and log."""
    agreed = [r.fields for r in view.log.records if r.kind == "sites_agreed"]
    refused = dict(agreed[-1]["refused"]) if agreed else {}
    up: Counter[str] = Counter()
    down: Counter[str] = Counter()
    for report in (view.vote, *view.rounds, view.evaluation):
        if report is not None:
            up.update(report.bytes_up)
            down.update(report.bytes_down)
    known = {s for r in view.rounds for s in (*r.sites, *r.failures)} | up.keys() | refused.keys()
    known |= {site for said in agreed for site in said["sites"]} | view.log.witnesses.keys()
    known |= view.exchange.words.keys() if view.exchange is not None else set()
    return tuple(
        _site(site, view, up=up[site], down=down[site], refused=str(refused.get(site, "")))
        for site in sorted(known)
    )


def _site(site: str, view: RunView, *, up: int, down: int, refused: str) -> SiteView:
    joined = [report.round_index for report in view.rounds if site in report.sites]
    missed = Counter(r.failures[site] for r in view.rounds if site in r.failures)
    return SiteView(
        site=site, joined=len(joined), last_round=joined[-1] if joined else None,
        missed=dict(missed), bytes_up=up, bytes_down=down,
        witnessed=view.log.witnesses.get(site, 0), refused=refused,
        last=view.exchange.words.get(site) if view.exchange is not None else None,
    )
