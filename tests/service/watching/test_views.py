"""What is read of a run, half way and at the end, and what a damaged folder does to it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import selectors
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from io import StringIO
from pathlib import Path
from typing import cast

import pytest
from open_files import all_closed_again
from rich.console import Console
from watch_lab import CANARY, RUN, Lab, view_at

from medunlearn_common.attestation.dsse import sealed
from medunlearn_common.audit.kinds import KINDS, digest, name
from medunlearn_common.audit.records import AuditRecord
from medunlearn_common.trust_folder import open_identity
from medunlearn_server.audit_trail import AuditTrail
from medunlearn_server.checkpoints import Checkpoint
from medunlearn_server.watching.run_reader import RunReader, decisions
from medunlearn_server.watching.terminal import spark, status_view, watch
from medunlearn_server.watching.views import UNREADABLE, FederationView, RunView


def run_at(folder: Path) -> RunView:
    found = view_at(folder).run(RUN)
    assert found is not None
    return found


@pytest.fixture
def copy(lab: Lab, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(lab.finished, folder)
    return folder


def said(view: FederationView, width: int = 140) -> str:
    stream = StringIO()
    Console(file=stream, width=width, force_terminal=True, color_system=None).print(
        status_view(view))
    return stream.getvalue()


def test_a_run_in_progress_is_shown_with_its_open_exchange(lab: Lab) -> None:
    run = run_at(lab.halfway)
    assert (run.state, run.phase) == ("running", "rounds")
    assert (len(run.rounds), run.planned_rounds) == (5, 8)
    assert run.exchange is not None and run.exchange.is_open
    assert (run.exchange.kind, run.exchange.round, run.exchange.asked) == ("step", 5, 6)
    assert run.exchange.totals["step"].exchanges == 5
    assert run.plan is not None and run.epsilon is not None
    assert 0.0 < run.epsilon < run.plan.epsilon == 8.0
    assert run.attestation is None and run.adapter_digest == ""


def test_a_finished_run_says_who_was_in_which_sum_and_what_it_cost(lab: Lab) -> None:
    run = run_at(lab.finished)
    assert (run.state, run.phase, run.reason, run.starts) == (
        "finished", "finished", "rounds_done", 2)
    sites = {site.site: site for site in run.sites}
    assert sites["hospital-3"].joined == 6 and sum(sites["hospital-3"].missed.values()) == 2
    assert sites["hospital-0"].joined == 8 and not sites["hospital-0"].missed
    assert run.dropouts == 3 + 8, "two absences, and one hospital that refuses every time"
    assert run.bytes_up == sum(
        sum(part.bytes_up.values()) for part in (run.vote, *run.rounds, run.evaluation) if part)
    assert {gate.gate: (gate.passed, gate.overridden_by) for gate in run.gates} == {
        "norm": (True, ""), "canary": (False, "Grace Hopper")}
    assert [site.refused for site in run.sites if site.refused] == ["SITE_ERROR"]
    assert run.log.first_bad is None and len(run.log.witnesses) == 7
    assert run.troubles == () and len(run.adapter_digest) == 64


def test_watching_writes_nothing_into_the_folder(copy: Path) -> None:
    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size)
                for p in (copy / "runs").rglob("*") if p.is_file()}

    before = state()
    run_at(copy)
    assert state() == before


def test_changed_log_record_is_seen(copy: Path) -> None:
    with closing(sqlite3.connect(copy / "runs" / RUN / "audit.db")) as connection, connection:
        connection.execute("DROP TRIGGER entries_keep")
        connection.execute("UPDATE entries SET record = X'00' WHERE position = 4")
    run = run_at(copy)
    assert run.log.first_bad == 4 and "AUDIT_LOG_DAMAGED" in run.troubles
    checks = view_at(copy).checks
    assert {check.name: check.code for check in checks}["audit logs"] == "AUDIT_LOG_DAMAGED"


@pytest.mark.parametrize("name", ["checkpoint.bin", "plan.toml", "gates.json", "exchange.json",
                                  "attestation.json", "audit.db"])
@pytest.mark.parametrize("junk", [b"", b"\x00\xff" * 50, b"[" * 50_000, b'{"gates": [1]}'],
                         ids=["empty", "binary", "nested", "shape"])
def test_damaged_file_leaves_the_rest_readable(copy: Path, name: str, junk: bytes) -> None:
    (copy / "runs" / RUN / name).write_bytes(junk)
    run = run_at(copy)
    assert run.run_id == RUN and run.state == "finished"
    if name != "checkpoint.bin":
        assert len(run.rounds) == 8


@pytest.mark.parametrize("values", [
    {"state": {"phase": "rounds"}}, {"curve": [{"round_index": 0}]}, {"curve": 3},
    {"state": {"phase": "nowhere", "next_round": 0, "rounds": 3}}, {"learning": {"vote": []}},
    {"curve": [{"norm_gate": None}]}, {"evaluation": {"forget": "x"}}, {"outcome": 3},
    {"outcome": {"epsilon": "x"}},
], ids=str)
def test_checkpoint_of_another_shape_is_named_and_left_out(
    copy: Path, values: dict[str, object]
) -> None:
    (copy / "runs" / RUN / "checkpoint.bin").write_bytes(Checkpoint(values=values).to_bytes())
    run = run_at(copy)
    assert run.rounds == () and "FILE_UNREADABLE" in run.troubles


_GATE = {"gate": "norm", "passed": True, "value": 1.0, "limit": 2.0}


@pytest.mark.parametrize("changed", [
    {"norm_gate": {"gate": "norm"}}, {"norm_gate": {**_GATE, "limit": 0}},
    {"norm_gate": {**_GATE, "limit": 10 ** 400}}, {"epsilon": "x"},
], ids=["keys", "zero", "huge", "epsilon"])
def test_one_damaged_round_takes_no_other_page_down(
    lab: Lab, tmp_path: Path, changed: dict[str, object]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(lab.halfway, folder)
    path = folder / "runs" / RUN / "checkpoint.bin"
    values = json.loads(json.dumps(dict(Checkpoint.from_bytes(path.read_bytes()).values)))
    values["curve"][2] |= changed
    path.write_bytes(Checkpoint(values=values).to_bytes())
    run = run_at(folder)
    assert run.rounds == () and "FILE_UNREADABLE" in run.troubles
    assert RUN in said(view_at(folder))


def test_missing_folder_of_a_launched_run_is_an_empty_run(copy: Path) -> None:
    shutil.rmtree(copy / "runs" / RUN)
    run = run_at(copy)
    assert (run.state, run.phase, run.rounds, run.sites) == ("finished", "gathering", (), ())


def test_a_coordinator_without_runs_creates_nothing(tmp_path: Path) -> None:
    (tmp_path / "coordinator.toml").write_text("")
    view = view_at(tmp_path, connect=True)
    assert view.runs == () and not view.ready
    codes = {check.name: check.code for check in view.checks}
    assert codes["certificate"] == "CERTIFICATE_MISSING" and codes["gateway"] == "PORT_CLOSED"
    assert [path.name for path in tmp_path.iterdir()] == ["coordinator.toml"]
    assert "no runs yet" in said(view)


def test_hostile_names_become_unreadable_before_anybody_sees_them(copy: Path) -> None:
    path = copy / "runs" / RUN / "checkpoint.bin"
    checkpoint = Checkpoint.from_bytes(path.read_bytes())
    values = json.loads(json.dumps(dict(checkpoint.values)).replace(
        "hospital-2", "\\u001b]0;x\\u0007<img src=x onerror=alert(1)>"))
    path.write_bytes(Checkpoint(values=values, arrays=checkpoint.arrays).to_bytes())
    run = run_at(copy)
    assert UNREADABLE in {site.site for site in run.sites}
    assert "onerror" not in repr(run)
    shown = said(view_at(copy))
    assert "\x1b]0" not in shown and "onerror" not in shown


def test_the_terminal_view_is_a_pure_function_and_fits_a_narrow_window(lab: Lab) -> None:
    view = view_at(lab.halfway, clock=lambda: 1_790_000_050.0)
    assert said(view) == said(view)
    wide = said(view)
    for words in ("5 of 8 rounds", "waiting for masked updates, round 6, 6 asked", "hospital-3",
                  "■■××■", "of 8"):
        assert words in wide
    assert max(len(line) for line in said(view, width=60).splitlines()) <= 60


def test_a_reader_that_is_closed_holds_no_file(lab: Lab) -> None:
    with all_closed_again(lab.finished):
        for _ in range(3):
            view_at(lab.finished)


def test_watch_ends_when_it_is_told_to(lab: Lab) -> None:
    looks: list[FederationView] = []

    def fetch() -> FederationView:
        looks.append(view_at(lab.finished))
        return looks[-1]

    console = Console(file=StringIO(), width=100)
    last = watch(fetch, console, until=lambda view: len(looks) == 3, sleep=lambda _: None)
    assert last is looks[2]


def test_status_watch_shows_the_run_and_ctrl_c_ends_it_well(lab: Lab) -> None:
    program = """
import sys, medunlearn_common.cli as cli
from importlib.metadata import EntryPoint
value = "medunlearn_server.service.commands:status"
cli.entry_points = lambda group: [EntryPoint("coordinator.status", value, group)]
cli.main()
"""
    ours, theirs = os.openpty()  # a live view is drawn on terminals only
    watching = subprocess.Popen(
        [sys.executable, "-c", program, "coordinator", "status", "--watch", "--folder",
         str(lab.finished)],
        stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "COLUMNS": "120", "TERM": "xterm",
             "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    os.close(theirs)
    drawn = selectors.DefaultSelector()  # takes descriptors of any number
    drawn.register(ours, selectors.EVENT_READ)
    try:
        seen = b""
        while RUN.encode() not in seen:
            assert drawn.select(60.0), seen
            seen += os.read(ours, 1 << 16)
        watching.send_signal(signal.SIGINT)
        with suppress(OSError):  # the terminal is gone with the process
            while drawn.select(60.0) and os.read(ours, 1 << 16):
                pass
        assert watching.wait(30) == 0
    finally:
        watching.kill()
        drawn.close()
        os.close(ours)


def test_away_from_a_terminal_a_picture_is_printed_when_it_changed(lab: Lab) -> None:
    times = iter([10.0, 11.0, 12.0, 13.0])
    places = iter([lab.halfway, lab.halfway, lab.finished, lab.finished])
    looks: list[FederationView] = []

    def fetch() -> FederationView:
        looks.append(view_at(next(places), clock=lambda: next(times)))
        return looks[-1]

    console = Console(file=(stream := StringIO()), width=140)
    watch(fetch, console, until=lambda view: len(looks) == 4, sleep=lambda _: None)
    assert stream.getvalue().count("Hospitals agree  ") == 2, "once each, not once a look"


def test_a_hospital_that_refuses_is_named_with_its_last_code(lab: Lab) -> None:
    run = run_at(lab.halfway)
    assert [(s.site, s.last and s.last.code) for s in run.held_up_by] == [
        ("hospital-6", "SITE_ERROR")]
    seen = next(site.last for site in run.sites if site.site == "hospital-0")
    assert seen is not None and seen.code == ""
    assert run_at(lab.finished).held_up_by == (), "it is over"
    shown = said(view_at(lab.halfway))
    assert re.search(r"hospital-6 +SITE_ERROR, [^?]+ ago", shown)
    assert CANARY not in (lab.halfway / "runs" / RUN / "exchange.json").read_text()


def test_durations_keep_the_space_before_their_unit(lab: Lab) -> None:
    assert not re.search(r"\d\?", said(view_at(lab.halfway)))


def test_spark_of_anything() -> None:
    assert spark([0.0, 1.0, float("nan"), 0.5]) == "▁█ ▅"
    assert spark([2.0, 2.0]) == "▁▁" and spark([]) == ""


def test_a_single_run_folder_can_be_read_without_a_registry(lab: Lab) -> None:
    run = RunReader(lab.finished / "runs" / RUN).read()
    assert (run.run_id, run.state) == (RUN, "finished")


def test_a_hospital_that_changes_its_mind_is_shown_with_its_last_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lawful = {"site": name, "attestation_digest": digest}
    for kind in ("countersigned", "objected"):
        monkeypatch.setitem(cast("dict[str, object]", KINDS), kind, lawful)
    said = [("countersigned", "north", "a"), ("objected", "north", "a"),
            ("countersigned", "south", "a"), ("objected", "west", "b")]
    records = [
        AuditRecord(index=index, at=1, kind=kind,
                    fields={"site": site, "attestation_digest": letter * 64})
        for index, (kind, site, letter) in enumerate(said)
    ]
    assert decisions(records, "a" * 64) == {"north": "objected", "south": "countersigned"}


def test_attestation_counts_only_if_the_log_names_it(copy: Path) -> None:
    folder = copy / "runs" / RUN
    log = AuditTrail(folder, run_id=RUN).log
    data = sealed(b'{"any":"statement"}', open_identity(folder))
    (folder / "attestation.json").write_bytes(data)
    found = run_at(copy).attestation
    assert found is not None and not found.in_log
    log.append("published", attestation_digest=hashlib.sha256(data).hexdigest(),
               report_digest="0" * 64)
    found = run_at(copy).attestation
    assert found is not None and found.in_log and found.signer == "coordinator"
    assert "named in the log" in said(view_at(copy))
    (folder / "attestation.json").write_bytes(data.replace(b"coordinator", b"coordinatoR"))
    found = run_at(copy).attestation
    assert found is not None and not found.in_log
