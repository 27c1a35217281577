"""The coordinator's metrics: samples of a :class:`FederationView`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from medunlearn_common.log_fields import RUN_STATES
from medunlearn_common.metrics import UNNAMED, Sample
from medunlearn_server.watching.views import FederationView, RunView


def samples(view: FederationView) -> Iterator[Sample]:
    """Every sample of the coordinator."""
    yield "medunlearn_build", 1.0, {"version": view.version}
    yield "medunlearn_ready", float(view.ready), {}
    yield "medunlearn_certificate_expires_seconds", view.certificate_ends, {}
    yield "medunlearn_roster_expires_seconds", view.roster_ends, {}
    for party, ends in view.key_ends.items():
        yield "medunlearn_key_expires_seconds", ends, {"site": party}
    for check in view.checks:
        yield "medunlearn_check_ok", float(check.ok), {"child": check.name.replace(" ", "_")}
    states = Counter(run.state for run in view.runs)
    for state in RUN_STATES:
        yield "medunlearn_runs", float(states[state]), {"state": state}
    for run in view.runs:
        yield from _run(run)
        yield from _sites(run)
        yield from _exchanges(run, now=view.at)


def _run(run: RunView) -> Iterator[Sample]:
    latest, about = run.latest, {"run_id": run.run_id}
    yield "medunlearn_run_state", 1.0, {**about, "state": run.state}
    known: dict[str, float | None] = {
        "rounds_done": len(run.rounds), "rounds_planned": run.planned_rounds,
        "starts": run.starts, "epsilon_spent": run.epsilon,
        "epsilon_budget": run.plan.epsilon if run.plan else None,
        "bytes_up": run.bytes_up, "bytes_down": run.bytes_down,
        "attested": bool(run.attestation and run.attestation.in_log),
        "log_records": len(run.log.records), "log_sound": run.log.first_bad is None,
    }
    if latest is not None:
        known |= {
            "forget_gap_units": latest.forget_gap, "retain_loss_units": latest.retain_loss,
            "progress_noise_units": latest.progress_noise, "round_seconds": latest.seconds,
            "round_sites": len(latest.sites),
        }
    for name, value in known.items():
        yield f"medunlearn_run_{name}", None if value is None else float(value), about
    for gate in run.gates:
        yield "medunlearn_gate_passed", float(gate.passed), {**about, "gate": gate.gate}


def _sites(run: RunView) -> Iterator[Sample]:
    # An address of Flower's, a number, changes at every start: it gets no series of its own.
    held_up_by = run.held_up_by
    for site in run.sites:
        about = {"run_id": run.run_id, "site": UNNAMED if site.site.isdecimal() else site.site}
        if site in held_up_by and site.last is not None:
            yield "medunlearn_site_refuses", 1.0, {**about, "code": site.last.code}
        yield "medunlearn_site_rounds_joined", float(site.joined), about
        yield "medunlearn_site_witnessed_records", float(site.witnessed), about
        for code, rounds in site.missed.items():
            yield "medunlearn_site_rounds_missed", float(rounds), {**about, "code": code}


def _exchanges(run: RunView, *, now: float) -> Iterator[Sample]:
    exchange = run.exchange
    if exchange is None:
        return
    if exchange.is_open and run.state == "running":
        about = {"run_id": run.run_id, "kind": exchange.kind}
        yield "medunlearn_run_exchange_open_seconds", max(0.0, now - exchange.since), about
    for kind, total in exchange.totals.items():
        about = {"run_id": run.run_id, "kind": kind}
        yield "medunlearn_exchanges", float(total.exchanges), about
        yield "medunlearn_exchange_seconds", total.seconds, about
        yield "medunlearn_exchange_unanswered", float(total.asked - total.answered), about
