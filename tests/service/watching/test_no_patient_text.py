"""Canaries in records, exceptions, requests, answers and reasons: none reaches what is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from watch_lab import CANARY, RUN, Lab, get, served, view_at, watched

from medunlearn_client.service.node_link import NodeLink
from medunlearn_client.watching import HospitalView, application, read_view, samples
from medunlearn_common.metrics import METRICS, exposition
from medunlearn_server.watching.terminal import status_view

# A date that no day, number or hexadecimal digest can spell: those are shown, and rightly.
PARTS = ("Jane", "Doe", "31.02.1970", "HIV")

# A hospital's process as it runs: its log, then real code that meets real trouble.
HOSPITAL = f"""
import logging, sys
from pathlib import Path
from medunlearn_common import logs
log = logs.start(Path(sys.argv[1]) / "state" / "logs", component="worker", level=logging.DEBUG)
from flwr.app import ConfigRecord, RecordDict
from medunlearn_common.flower_records import from_records
from medunlearn_client.records.reading import read_records
from medunlearn_common.errors import MedunlearnError, Rejected
from medunlearn_common.messages import Message
CANARY = {CANARY!r}

class Hospital:
    site_id = CANARY
    def __init__(self, error): self.error = error
    def handle(self, message):
        record = CANARY + str(message.fields)
        raise self.error(record)

for error in (ValueError, KeyError, lambda text: Rejected("RECORD_BAD", text, text)):
    try:
        Hospital(error).handle(Message(kind=CANARY, fields={{CANARY: CANARY}}))
    except MedunlearnError as known:
        logging.getLogger("medunlearn.flower").error("%s", known)
        log.error("request_refused", known, kind=CANARY, site=CANARY)
    except Exception as unknown:
        logging.getLogger("medunlearn.flower").exception("a request could not be handled")
        log.error("failed", unknown, kind=CANARY)

for records in (RecordDict({{"head": ConfigRecord({{CANARY: CANARY}})}}), CANARY, None):
    try:
        from_records(records)
    except Exception as unknown:
        log.error("request_refused", unknown)

bad = Path(sys.argv[1]) / (CANARY + ".jsonl")
bad.write_text('{{"id": "' + CANARY + '", "prompt": 3}}\\n' + CANARY + "\\n")
for path in (bad, bad.with_suffix(".nothing"), CANARY):
    try:
        read_records(path)
    except Exception as unknown:
        logging.getLogger("medunlearn.hospital").exception("%s", unknown)
        log.error("failed", unknown)
raise RuntimeError(CANARY)
"""


def clean(text: str, what: str) -> None:
    for part in PARTS:
        assert part not in text, f"{part} reached {what}"


def test_a_hospitals_logs(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", HOSPITAL, str(tmp_path)], capture_output=True, text=True,
        timeout=300, check=False,
    )
    public = (tmp_path / "state" / "logs" / "worker.jsonl").read_text()
    clean(process.stdout, "stdout")
    clean(process.stderr, "stderr")
    clean(public, "the log")
    assert "RECORD_BAD" in public and public.count('"failed"') >= 3
    private = (tmp_path / "state" / "logs" / "worker.private.log").read_text()
    assert private.count(CANARY) > 5, "without this the canaries were never at risk"


def test_a_coordinators_pages_metrics_status_and_terminal(lab: Lab) -> None:
    store = (lab.finished / "runs" / RUN / "gate_overrides.json").read_text()
    assert CANARY in store, "without this the canaries were never at risk"
    with watched(lab.finished) as port:
        for path in ("/", f"/runs/{RUN}", "/metrics", "/readyz", "/healthz", f"/runs/{CANARY}",
                     f"/?{CANARY}"):
            path = path.replace(" ", "%20")
            answer, body = get(port, path, headers={"X-Patient": CANARY, "Referer": CANARY})
            clean(body + str(answer.headers), path)
        assert "Grace Hopper" in get(port, f"/runs/{RUN}")[1]
    view = view_at(lab.finished)
    stream = StringIO()
    Console(file=stream, width=160).print(status_view(view))
    clean(stream.getvalue(), "the terminal")
    clean(repr(view), "the view")


def test_the_note_of_exchanges_holds_nothing_of_a_request(lab: Lab) -> None:
    note = (lab.finished / "runs" / RUN / "exchange.json").read_text()
    clean(note, "the note")
    assert set(json.loads(note)) == {
        "kind", "round", "asked", "answered", "since", "seconds", "totals", "words"}
    assert {key for word in json.loads(note)["words"].values() for key in word} == {
        "kind", "code", "at"}


def write_status(folder: Path, **changes: object) -> None:
    (folder / "state").mkdir(parents=True, exist_ok=True)
    status = {
        "site_id": "north", "state": "idle", "run_id": "r", "last_kind": "step",
        "last_at": 1.79e9, "requests": 12, "errors": {"PLAN_UNKNOWN": 2}, "epsilon_spent": 1.25,
        "model_loaded": True, "device": "cpu", "gpu_memory_bytes": 0,
        "worker_pid": os.getpid(), "restarts": 1, **changes,
    }
    (folder / "state" / "status.json").write_text(json.dumps(status))


def test_a_hospitals_metrics_and_health(tmp_path: Path) -> None:
    write_status(tmp_path)
    with served(application(lambda: read_view(tmp_path))) as port:
        assert [get(port, path)[0].status for path in ("/healthz", "/readyz")] == [200, 200]
        text = get(port, "/metrics")[1]
        for line in ("medunlearn_hospital_requests_total 12.0",
                     'medunlearn_hospital_errors_total{code="PLAN_UNKNOWN"} 2.0',
                     "medunlearn_hospital_epsilon_spent 1.25", "medunlearn_ready 1.0",
                     'medunlearn_hospital_state{state="idle"} 1.0'):
            assert line in text
        assert get(port, "/", headers={"Host": "evil"})[0].status == 421
        assert get(port, "/nothing")[1] == '{"code":"NOT_FOUND"}'
        write_status(tmp_path, model_loaded=False)  # before its first run a hospital is ready too
        assert get(port, "/readyz")[0].status == 200
        NodeLink(code="NODE_NOT_ADMITTED", since=1.0, at=2.0).write(tmp_path / "state/node.json")
        assert get(port, "/readyz")[1] == '{"code":"NODE_NOT_ADMITTED"}'
        (tmp_path / "state/node.json").write_text(json.dumps({"code": CANARY}))
        write_status(tmp_path, state="stopping")
        answer, body = get(port, "/readyz")
        assert (answer.status, body) == (503, '{"code":"WORKER_NOT_READY"}')
        write_status(tmp_path, worker_pid=2**22 + 1)
        assert get(port, "/healthz")[1] == '{"code":"WORKER_GONE"}'
        (tmp_path / "state" / "status.json").unlink()
        assert get(port, "/healthz")[1] == '{"code":"STATUS_MISSING"}'


@pytest.mark.parametrize("changes", [
    {"state": CANARY}, {"errors": {CANARY: 3}}, {"last_kind": CANARY}, {"run_id": CANARY},
    {"site_id": CANARY}, {"device": CANARY}, {"requests": CANARY}, {"errors": CANARY},
    {"epsilon_spent": CANARY}, {"worker_pid": CANARY}, {"model_loaded": CANARY},
    {CANARY: CANARY}, {"restarts": 1e400}, {"errors": {"A_CODE": CANARY}},
], ids=lambda changes: next(iter(changes))[:8])
def test_a_status_file_that_quotes_a_patient(tmp_path: Path, changes: dict[str, object]) -> None:
    write_status(tmp_path, **changes)
    view = read_view(tmp_path)
    clean(repr(view), "the view")
    clean(exposition(samples(view)).decode(), "the metrics")
    with served(application(lambda: view)) as port:
        for path in ("/metrics", "/healthz", "/readyz"):
            clean(get(port, path)[1], path)


def test_waiting_plans_are_counted_and_not_shown(tmp_path: Path) -> None:
    write_status(tmp_path)
    (tmp_path / "approvals").mkdir()
    for number, decision in enumerate(("waiting", "approved", "waiting")):
        (tmp_path / "approvals" / f"{number}.json").write_text(
            json.dumps({"decision": decision, "plan": CANARY}))
    (tmp_path / "approvals" / "x.json").write_text("[")
    view = read_view(tmp_path)
    assert view.plans_waiting == 2
    clean(repr(view), "the view")


def test_every_hospital_metric_is_declared() -> None:
    view = HospitalView(state="idle", alive=True, errors={"A_CODE": 1})
    assert {name for name, _, _ in samples(view)} <= METRICS.keys()
