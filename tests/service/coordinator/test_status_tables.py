"""What `coordinator status`, `runs` and `launch --wait` say of runs and of each site."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from control_lab import control_server
from rich.console import Console

from medunlearn_common.errors import Misconfigured
from medunlearn_common.messages import READY, Message
from medunlearn_common.service import control_pb2 as wire
from medunlearn_server.service import commands
from medunlearn_server.service.client import ControlClient
from medunlearn_server.service.config import CONFIG_FILE
from medunlearn_server.service.runs_db import RunsDb, RunState
from medunlearn_server.service.status_tables import doing, held_up_by, runs_table, status_tables
from medunlearn_server.transport import Reply, SiteFailure
from medunlearn_server.watching.exchanges import EXCHANGE_FILE, WatchedTransport, read_exchange
from medunlearn_server.watching.views import ExchangeView


def a_run(state: str = "running", *, mode: str = "unlearn", **progress: Any) -> Any:
    now = time.time()
    return wire.Run(
        run_id="heart-1", state=state, mode=mode, starts=1,
        progress=wire.Progress(rounds=6, since=now - 40.0, **progress), words=[
            wire.LastWord(site_id="clinic-a", kind="ready", code="PLAN_AWAITS_APPROVAL",
                          at=now - 3.0),
            wire.LastWord(site_id="clinic-b", kind="ready", at=now - 3.0),
            wire.LastWord(site_id="clinic-c", kind="ready", code="FORGET_ID_UNKNOWN",
                          at=now - 200.0),
        ])


def said(*parts: Any) -> str:
    stream = StringIO()
    console = Console(file=stream, width=200)
    for part in parts:
        console.print(part)
    return stream.getvalue()


def test_the_status_says_which_site_holds_a_run_up_and_why() -> None:
    run = a_run(phase="ready", asked=1, missing=0, connected=3)
    found = wire.ServiceStatus(runs=[run], sites=[
        wire.Site(site_id=site, registered=True, seen=time.time())
        for site in ("clinic-a", "clinic-b", "clinic-c", "clinic-d")])
    lines = {line.split()[0]: line for line in said(*status_tables(found)).splitlines()}
    assert "last answer in heart-1" in lines["site"]
    assert "PLAN_AWAITS_APPROVAL, 3 s ago" in lines["clinic-a"]
    assert "good, 3 s ago" in lines["clinic-b"]
    assert "FORGET_ID_UNKNOWN, 3 min ago" in lines["clinic-c"]
    assert lines["clinic-d"].rstrip().endswith("-"), "it was never asked"


def test_a_site_that_was_asked_and_is_silent_is_named_while_it_is_waited_for() -> None:
    run = a_run(phase="rounds", next_round=2, asked=3, missing=1, waits_for=["clinic-b"])
    found = wire.ServiceStatus(runs=[run], sites=[wire.Site(site_id="clinic-b")])
    text = said(*status_tables(found))
    assert "none yet, asked 40 s ago" in text
    assert "round 3 of 6, waits for 1 of 3 sites (40 s)" in text


def test_a_run_that_is_started_again_still_shows_what_the_sites_said(tmp_path: Path) -> None:
    class Refusing:
        def sites(self) -> tuple[str, ...]:
            return ("17", "18")

        def exchange(self, requests: Mapping[str, Message], *, deadline_s: float
                     ) -> dict[str, Reply]:
            seen.append(read_exchange(tmp_path))
            return {"17": Message(kind=READY, fields={"site_id": "clinic-a"}),
                    "18": SiteFailure(code="FORGET_ID_UNKNOWN", site="clinic-b")}

    seen: list[ExchangeView | None] = []
    asked = dict.fromkeys(("17", "18"), Message(kind=READY))
    for _ in range(2):
        WatchedTransport(Refusing(), tmp_path).exchange(asked, deadline_s=1.0)
    first, second = seen
    assert first is not None and first.words == {}
    assert second is not None and second.is_open
    assert {site: word.code for site, word in second.words.items()} == {
        "clinic-a": "", "clinic-b": "FORGET_ID_UNKNOWN"}


def test_the_last_phase_is_no_round_beyond_the_last() -> None:
    assert doing(a_run(phase="rounds", next_round=6)) == "measures the adapter"
    assert doing(a_run(phase="rounds", next_round=5)) == "round 6 of 6"


def test_a_run_that_is_published_has_finished() -> None:
    for state, what in (("running", "is being published"),
                        ("pending", "waits for its turn to be published")):
        run = a_run(state, mode="publish", phase="finished")
        text = said(runs_table([run]))
        assert "finished" in text and what in text and "running" not in text
        assert held_up_by(run) == {}


def test_words_travel_from_the_runs_folder_and_nothing_unlawful_with_them(tmp_path: Path) -> None:
    with control_server(tmp_path) as (federation, address):
        folder = federation.folder
        with closing(RunsDb(folder.runs_db)) as runs:
            runs.add("heart-1", plan_digest="d")
        place = folder.run("heart-1")
        place.mkdir(parents=True)
        word = {"kind": "ready", "code": "FORGET_ID_UNKNOWN", "at": 5.0}
        (place / EXCHANGE_FILE).write_text(json.dumps({
            "kind": "ready", "round": 0, "asked": 3, "answered": 3, "since": 1.0,
            "seconds": 1.0, "totals": {}, "words": {
                "clinic-c": word, "Jane Doe, 1970": word,
                "clinic-b": {**word, "code": "patient 17 of ward 3"}},
        }))
        (place / "now.json").write_text(json.dumps(
            {"phase": "ready", "waits_for": ["clinic-a", "Jane Doe"]}))
        with ControlClient(folder, address=address) as client:
            run = client.runs()[0]
    assert {w.site_id: w.code for w in run.words} == {
        "clinic-c": "FORGET_ID_UNKNOWN", "clinic-b": "unreadable"}
    assert list(run.progress.waits_for) == ["clinic-a"]


@pytest.mark.parametrize("note", [
    "", "[]", "{", '{"round": "x"}', '{"round": -1}', '{"round": 1e99}', '{"epsilon": []}',
    '{"waits_for": 3}', '{"waits_for": [{}]}', "[" * 5000, '{"asked": NaN}',
])
def test_a_note_that_cannot_be_read_hides_no_run(tmp_path: Path, note: str) -> None:
    with control_server(tmp_path) as (federation, address):
        folder = federation.folder
        with closing(RunsDb(folder.runs_db)) as runs:
            runs.add("heart-1", plan_digest="d")
        place = folder.run("heart-1")
        place.mkdir(parents=True)
        for name in ("now.json", EXCHANGE_FILE):
            (place / name).write_text(note)
        with ControlClient(folder, address=address) as client:
            assert [run.run_id for run in client.runs()] == ["heart-1"]


def test_a_run_that_is_being_published_is_not_paused(tmp_path: Path) -> None:
    """It could end in no such state, and would be started again and again."""
    with control_server(tmp_path) as (federation, address):
        with closing(RunsDb(federation.folder.runs_db)) as runs:
            runs.add("heart-1", plan_digest="d")
            runs.count_start("heart-1")
            runs.move("heart-1", "finished")
            runs.publish("heart-1")
        with ControlClient(federation.folder, address=address) as client:
            with pytest.raises(Misconfigured) as caught:
                client.pause("heart-1")
            assert caught.value.code == "RUN_STATE" and "published" in caught.value.message
    assert not (federation.folder.run("heart-1") / "directive").exists()


@pytest.mark.parametrize(("state", "hint"), [
    ("stopped", "launch its plan again"), ("finished", "coordinator publish heart-1"),
])
def test_a_run_that_is_over_is_not_resumed_and_says_what_can_be_done(
    tmp_path: Path, state: RunState, hint: str
) -> None:
    with control_server(tmp_path) as (federation, address):
        with closing(RunsDb(federation.folder.runs_db)) as runs:
            runs.add("heart-1", plan_digest="d")
            runs.count_start("heart-1")
            runs.move("heart-1", state)
        with ControlClient(federation.folder, address=address) as client:
            with pytest.raises(Misconfigured) as caught:
                client.resume("heart-1")
            assert caught.value.code == "RUN_STATE" and hint in caught.value.hint
    assert not (federation.folder.run("heart-1") / "directive").exists()


class Service:
    """A control client that answers from a script."""

    runs_seen: list[Any]

    def __init__(self, *_: object) -> None:
        pass

    def runs(self) -> list[Any]:
        return [Service.runs_seen.pop(0) if len(Service.runs_seen) > 1 else Service.runs_seen[0]]

    def pause(self, run_id: str) -> Any:
        return self.runs()[0]

    stop = pause

    def __enter__(self) -> Service:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        pass


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    def give(*seen: Any) -> Path:
        (tmp_path / CONFIG_FILE).write_text("")
        Service.runs_seen = list(seen)
        monkeypatch.setattr(commands, "ControlClient", Service)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        return tmp_path

    return give


def test_waiting_says_each_thing_once_and_in_the_end_what_is_next(
    scripted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    waits = [a_run(phase="ready", asked=3, missing=1, connected=n) for n in (1, 2, 3)]
    for number, run in enumerate(waits):
        run.progress.since -= 10.0 * number
    scripted(*waits, a_run("finished", phase="finished"))
    commands._follow(Service(), "heart-1")  # type: ignore[arg-type]
    assert capsys.readouterr().out.splitlines() == [
        "running: ready, waits for 1 of 3 sites: clinic-a PLAN_AWAITS_APPROVAL, "
        "clinic-c FORGET_ID_UNKNOWN",
        "finished: heart-1", "next: medunlearn coordinator publish heart-1"]


def test_pausing_or_stopping_twice_says_so(
    scripted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = scripted(a_run("paused"))
    commands.pause("", folder)
    assert "is paused" in capsys.readouterr().out
    folder = scripted(a_run("stopped"))
    commands.stop("heart-1", folder)
    assert "is stopped" in capsys.readouterr().out


def test_the_only_run_is_found_beside_one_that_is_being_published(
    scripted: Callable[..., Path],
) -> None:
    class Two(Service):
        def runs(self) -> list[Any]:
            published = a_run(mode="publish")
            published.run_id = "older"
            return [published, a_run("paused")]

    assert commands._chosen(Two(), "") == "heart-1"  # type: ignore[arg-type]


def test_runs_as_json(
    scripted: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    commands.runs(scripted(a_run()), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found[0]["run_id"] == "heart-1" and found[0]["words"][0]["site_id"] == "clinic-a"
