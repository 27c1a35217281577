"""The dashboard over HTTP: what it answers, and what it refuses."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from joining_desk import DAY_S, NOW, Desk
from watch_lab import RUN, Lab, get, served, view_at, watched

from medunlearn_common.errors import MedunlearnError
from medunlearn_common.loopback import HEADERS, server_of
from medunlearn_common.metrics import METRICS, exposition, families
from medunlearn_server.service.runs_db import RunsDb
from medunlearn_server.watching.federation import MOST_RUNS
from medunlearn_server.watching.metrics import samples
from medunlearn_server.watching.views import FederationView, LastWord, RunView, SiteView
from medunlearn_server.watching.web import SharedView, dashboard

PATHS = ("/", f"/runs/{RUN}", "/metrics", "/healthz", "/readyz", "/style.css", "/watch.js")


@pytest.fixture(scope="module")
def port(lab: Lab) -> Iterator[int]:
    with watched(lab.finished) as number:
        yield number


@pytest.mark.parametrize("path", [*PATHS, "/icon.svg", "/nothing", "/runs/none"])
def test_every_answer_carries_the_policy_and_no_server_name(port: int, path: str) -> None:
    answer, _ = get(port, path)
    for name, value in HEADERS.items():
        assert answer.headers.get_all(name) == [value]
    assert "server" not in answer.headers and "set-cookie" not in answer.headers
    assert "unsafe" not in HEADERS["content-security-policy"]


@pytest.mark.parametrize("host", [
    "evil.example", "evil.example:9480", "127.0.0.1.evil.example", "localhost.evil.example",
    "127.0.0.1@evil.example", "127.0.0.2", "0.0.0.0", "", "localhost:9480:1", "[::1", "[::2]",
    "localhost/", "LOCALHOST.", "127.1",
])
def test_dns_rebinding(port: int, host: str) -> None:
    """A page whose name was pointed at 127.0.0.1 reads nothing here, not even an error's text."""
    for path in PATHS:
        answer, body = get(port, path, headers={"Host": host})
        assert (answer.status, body) == (421, '{"code":"HOST_REFUSED"}')


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:1", "[::1]:9480", "LocalHost:8080"])
def test_a_tunnel_on_another_port_is_served(port: int, host: str) -> None:
    assert get(port, "/", headers={"Host": host})[0].status == 200


def test_two_host_headers(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n"
                           b"Connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"400", b"421") and b"Runs" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_only_reading(port: int, method: str) -> None:
    for path in PATHS:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request(method, path)
        answer = connection.getresponse()
        assert answer.status in (400, 405)
        connection.close()


def test_head_has_no_body(port: int) -> None:
    answer, body = get(port, "/", method="HEAD")
    assert answer.status == 200 and body == ""


def test_a_page_that_did_not_change_is_not_sent_again(port: int) -> None:
    answer, body = get(port, f"/runs/{RUN}")
    tag = answer.headers["ETag"]
    again, nothing = get(port, f"/runs/{RUN}", headers={"If-None-Match": tag})
    assert (again.status, nothing, again.headers["ETag"]) == (304, "", tag)
    assert "Forget gap" in body


def test_the_run_page_says_everything(port: int) -> None:
    page = get(port, f"/runs/{RUN}")[1]
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    for words in ("8 of 8", "of 8.0", "hospital-3", "SITE_GONE", "asked in vain",
                  "round accepted", "no sum of fewer than 3", "holds",
                  "each follows from the one before",
                  "the run was started 2 times", "all planned rounds are done"):
        assert words in text, words
    assert page.count('class="band') == 2, "both curves show their noise"
    assert page.count('class="missed"') >= 3
    assert not re.search(r"(src|href|url)\s*[=(]\s*['\"]?(https?:)?//", page)
    assert "<script>" not in page and " style=" not in page and " onclick" not in page


def test_page_follows_a_run_in_progress(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "live"
    shutil.copytree(lab.halfway, folder)
    with watched(folder, clock=iter(range(100)).__next__) as port:
        before, page = get(port, f"/runs/{RUN}")
        assert "waiting for masked updates, round 6, 6 asked" in page and "data-since" in page
        for name in ("checkpoint.bin", "exchange.json", "audit.db"):
            shutil.copy(lab.finished / "runs" / RUN / name, folder / "runs" / RUN / name)
        registry = RunsDb(folder / "state" / "runs.db")
        registry.move(RUN, "finished")
        registry.close()
        after, page = get(port, f"/runs/{RUN}",
                          headers={"If-None-Match": before.headers["ETag"]})
        assert after.status == 200 and "all planned rounds are done" in page


def test_unknown_run_is_not_repeated(port: int) -> None:
    answer, body = get(port, "/runs/%3Cscript%3Ealert(1)%3C/script%3E")
    assert answer.status == 404 and json.loads(body) in (
        {"code": "RUN_UNKNOWN"}, {"code": "NOT_FOUND"})
    assert get(port, "/runs/../../etc/passwd")[0].status == 404
    assert get(port, "/" + "a" * 600)[0].status == 414


def test_error_in_the_reader_tells_its_code_only() -> None:
    def broken() -> FederationView:
        raise RuntimeError("a patient's name")

    with served(dashboard(broken)) as port:
        for path in ("/", "/metrics", "/readyz"):
            answer, body = get(port, path)
            assert (answer.status, body) == (500, '{"code":"INTERNAL_ERROR"}')


@pytest.mark.parametrize("address", ["0.0.0.0:9480", "[::]:9480", "192.168.1.5:80", "example:80",
                                     "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", ""])
def test_served_on_loopback_only(address: str) -> None:
    with pytest.raises(MedunlearnError) as caught:
        server_of(dashboard(lambda: FederationView(at=0.0, version="0")), address)
    assert caught.value.code == "WATCH_ADDRESS"


def test_ready_says_what_is_missing(port: int) -> None:
    answer, body = get(port, "/readyz")
    assert answer.status == 503
    found = json.loads(body)
    assert found["ready"] is False and found["checks"]["gateway"] == "PORT_CLOSED"
    assert found["checks"]["registry"] == found["checks"]["audit logs"] == "OK"
    assert get(port, "/healthz")[0].status == 200


def test_ready_when_everything_listens(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "ready"
    shutil.copytree(lab.finished, folder)
    (folder / "tls").mkdir()
    write_certificate(folder / "tls" / "server.pem", days=400)
    shutil.copytree(Desk(path=tmp_path).found().lead / "trust", folder / "trust")
    with listening() as ports:
        (folder / "coordinator.toml").write_text(
            f'[listen]\npublic = "0.0.0.0:{ports[0]}"\nsuperlink = "127.0.0.1:{ports[1]}"\n'
            f'control = "127.0.0.1:{ports[2]}"\n')
        view = view_at(folder, connect=True)
    assert view.ready, view.checks
    assert not view_at(folder, connect=True).ready


@pytest.mark.parametrize(("days", "code", "ok"), [
    (-1, "CERTIFICATE_EXPIRED", False), (7, "CERTIFICATE_EXPIRES", True), (90, "", True)])
def test_certificate_that_expires_is_told(tmp_path: Path, days: int, code: str, ok: bool) -> None:
    (tmp_path / "coordinator.toml").write_text("")
    (tmp_path / "tls").mkdir()
    write_certificate(tmp_path / "tls" / "server.pem", days=days)
    checks = view_at(tmp_path).checks
    found = next(check for check in checks if check.name == "certificate")
    assert (found.code, found.ok) == (code, ok)


@pytest.mark.parametrize(("day", "roster", "key"), [
    (1, "", ""), (70, "ROSTER_EXPIRES", ""), (91, "ROSTER_EXPIRED", ""),
    (710, "ROSTER_EXPIRED", "KEY_EXPIRES"), (731, "ROSTER_EXPIRED", "KEY_EXPIRED")])
def test_a_roster_and_a_key_that_expire_are_told(
    tmp_path: Path, day: int, roster: str, key: str
) -> None:
    """Nobody types doctor every day: without them the federation stands still one morning."""
    desk = Desk(path=tmp_path).found()
    view = view_at(desk.lead, clock=lambda: NOW + day * DAY_S)
    found = {check.name: check for check in view.checks}
    assert (found["roster"].code, found["key"].code) == (roster, key)
    assert found["roster"].ok == (day < 90) and found["key"].ok == (day < 730)
    told = {(name, labels.get("site")): value for name, value, labels in samples(view)}
    assert told["medunlearn_roster_expires_seconds", None] == int(NOW) + 90 * DAY_S
    assert told["medunlearn_key_expires_seconds", "coordinator"] == int(NOW) + 730 * DAY_S


def test_a_run_that_waits_is_shown_however_many_came_after_it(tmp_path: Path) -> None:
    (tmp_path / "coordinator.toml").write_text("")
    times = iter(range(10_000))
    registry = RunsDb(tmp_path / "state" / "runs.db", clock=lambda: float(next(times)))
    for run_id in ("waits", *(f"over-{number}" for number in range(MOST_RUNS + 1))):
        registry.add(run_id, plan_digest="d" * 64)
        registry.move(run_id, "paused" if run_id == "waits" else "stopped")
    registry.close()
    shown = [run.run_id for run in view_at(tmp_path).runs]
    assert shown[-1] == "waits" and len(shown) == MOST_RUNS + 1 and "over-0" not in shown


def test_damaged_registry_is_unhealthy_and_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "coordinator.toml").write_text("")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "runs.db").write_bytes(b"no database" * 100)
    with watched(tmp_path) as port:
        answer, body = get(port, "/healthz")
        assert (answer.status, body) == (503, '{"code":"RUNS_DB"}')
        assert "RUNS_DB" in get(port, "/")[1]


def test_metrics_are_what_prometheus_reads(port: int) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    text = get(port, "/metrics")[1]
    found = {sample.name: sample for family in text_string_to_metric_families(text)
             for sample in family.samples}
    assert found["medunlearn_run_rounds_done"].value == 8.0
    assert found["medunlearn_run_epsilon_budget"].value == 8.0
    assert found["medunlearn_run_log_sound"].value == 1.0
    assert found["medunlearn_exchanges_total"].labels["run_id"] == RUN
    missed = [
        (sample.labels["site"], sample.value) for family in text_string_to_metric_families(text)
        for sample in family.samples if sample.name == "medunlearn_site_rounds_missed"
    ]
    assert sorted(missed) == [("hospital-3", 2.0), ("hospital-4", 1.0), ("hospital-6", 8.0)]


def test_pages_and_metrics_name_who_holds_a_run_up(lab: Lab) -> None:
    with watched(lab.halfway) as port:
        for path in ("/", f"/runs/{RUN}"):
            assert re.search(r"hospital-6.*?<code>SITE_ERROR</code>", get(port, path)[1], re.S)
        assert re.search(r'medunlearn_site_refuses\{.*code="SITE_ERROR".*site="hospital-6"\} 1.0'
                         r'|medunlearn_site_refuses\{.*site="hospital-6".*code="SITE_ERROR"\} 1.0',
                         get(port, "/metrics")[1])


def test_an_address_of_flowers_gets_no_series_of_its_own() -> None:
    word = LastWord(kind="ready", code="SITE_SILENT", at=0.0)
    run = RunView(run_id="r", state="running", sites=tuple(
        SiteView(site=site, last=word) for site in ("586608049989859213", "17", "clinic-a")))
    text = exposition(samples(FederationView(at=0.0, version="0", runs=(run,)))).decode()
    assert 'site="clinic-a"' in text and '17"' not in text and "58660" not in text


def test_metric_label_that_is_free_text_becomes_unnamed() -> None:
    text = exposition([
        ("medunlearn_site_rounds_joined", 3.0, {"run_id": "r", "site": "Jane Doe, 1970"}),
        ("medunlearn_site_rounds_joined", 4.0, {"run_id": "r", "site": "x\n# HELP y"}),
        ("medunlearn_run_epsilon_spent", float("nan"), {"run_id": "r"}),
    ]).decode()
    assert 'site="unnamed"} 7.0' in text and "Jane" not in text and "epsilon" not in text


def test_unknown_metric_is_a_defect() -> None:
    with pytest.raises(KeyError):
        list(families([("medunlearn_new", 1.0, {})]))


def test_every_metric_of_a_run_is_declared(lab: Lab) -> None:
    view = view_at(lab.finished)
    assert {name for name, _, _ in samples(view)} <= METRICS.keys()


def test_readers_share_one_look() -> None:
    looks: list[float] = []

    def read() -> FederationView:
        looks.append(time.monotonic())
        time.sleep(0.05)
        return FederationView(at=0.0, version="0")

    shared = SharedView(read, clock=lambda: 0.0)
    threads = [threading.Thread(target=shared) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(looks) == 1


def test_the_process_serves_until_it_is_terminated(lab: Lab, tmp_path: Path) -> None:
    folder = tmp_path / "process"
    shutil.copytree(lab.finished, folder)
    with listening() as ports:
        number = ports[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "medunlearn_server.watching.web", str(folder),
         f"127.0.0.1:{number}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        wait_for(number)
        assert get(number, "/healthz")[0].status == 200
    finally:
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert err == b"", "what libraries say goes to the private file"
    assert json.loads(out.splitlines()[1])["event"] == "serving"
    private = folder / "state" / "logs" / "watch.private.log"
    assert private.stat().st_mode & 0o777 == 0o600


def wait_for(port: int, *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("nobody listens")


class listening:
    """Three ports that take connections."""

    def __enter__(self) -> list[int]:
        self._sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        return [one.getsockname()[1] for one in self._sockets]

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()


def write_certificate(path: Path, *, days: int) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(tz=UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    path.write_bytes(
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - timedelta(days=500)).not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
