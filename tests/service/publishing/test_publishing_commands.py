"""The commands, as a coordinator's and a hospital's people type them."""

from __future__ import annotations

from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
from publishing_lab import PublishingLab

from medunlearn_common.cli import CommandLine
from medunlearn_common.keeping.marks import RETIRED_FILE, HistoryLost
from medunlearn_common.messages import ERROR, Message
from medunlearn_common.trust_folder import TRUST_FOLDER
from medunlearn_server.directives import read_directive, write_directive
from medunlearn_server.service.runs_db import RunsDb, RunState

HOSPITAL = ("adopt", "countersign", "inbox", "measure", "rollback")
COMMANDS = (
    *(EntryPoint(name=f"hospital.{name}", group="medunlearn.commands",
                 value=f"medunlearn_client.adoption.commands:{name}") for name in HOSPITAL),
    EntryPoint(name="hospital.object", group="medunlearn.commands",
               value="medunlearn_client.adoption.commands:object_to"),
    EntryPoint(name="coordinator.publish", group="medunlearn.commands",
               value="medunlearn_server.publishing.commands:publish"),
)


def command(*arguments: object) -> int:
    line = CommandLine()
    return line.run(line.build(COMMANDS), [str(argument) for argument in arguments])


def registered(lab: PublishingLab) -> None:
    """Both runs stand in the coordinator's registry as finished."""
    registry = RunsDb(lab.party / "state" / "runs.db")
    for run in ("first", "second"):
        registry.add(run, plan_digest="0" * 64)
        registry.count_start(run)
        registry.carried_by(run, "1")
        registry.move(run, "finished")
    registry.close()


def test_the_coordinator_attests_and_the_service_is_told(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(lab)
    at = ("--folder", lab.party)
    write_directive(lab.party / "runs" / "second", "stop")  # came too late for the run
    assert command("coordinator", "publish", "second", *at) == 0
    assert read_directive(lab.party / "runs" / "second") == "run"
    assert "attested: SHA-256" in capsys.readouterr().out
    registry = RunsDb(lab.party / "state" / "runs.db")
    assert (registry.get("second").state, registry.get("second").mode) == ("pending", "publish")
    registry.close()
    assert command("coordinator", "publish", "second", "--show", *at) == 0
    assert capsys.readouterr().out.count("not sent yet") == 3
    lab.publish()
    lab.decide(1, "objected")
    lab.publish()
    assert command("coordinator", "publish", "second", "--show", *at) == 0
    shown = capsys.readouterr().out
    assert "site-1" in shown and "objected" in shown and shown.count("RECEIVED") == 3
    for run, code in (("third", "RUN_UNKNOWN"), ("../second", "RUN_ID_INVALID")):
        assert command("coordinator", "publish", run, *at) == 2
        assert code in capsys.readouterr().err


def test_who_was_away_has_a_row_and_is_published_to_again(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown() -> dict[str, str]:
        assert command("coordinator", "publish", "second", "--show", "--folder", lab.party) == 0
        return {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}

    whole = dict(lab.hospitals)
    lab.hospitals["site-0"] = SimpleNamespace(  # type: ignore[assignment]
        handle=lambda message: Message(kind=ERROR, fields={"code": "SITE_STOPPING"}))
    lab.away = {"site-2"}
    lab.publish()
    rows = shown()
    assert "SITE_STOPPING" in rows["site-0"] and "RECEIVED" in rows["site-1"]
    assert "SITE_GONE" in rows["site-2"]
    assert "2 of 3 have not got all of it" in rows["2"] and "publish second" in rows["2"]
    lab.hospitals, lab.away = whole, {"site-1"}
    lab.publish()
    rows = shown()
    assert "RECEIVED" in rows["site-0"] and "RECEIVED" in rows["site-2"]
    assert "RECEIVED" in rows["site-1"] and "SITE_GONE the last time" in rows["site-1"]
    lab.away = set()
    lab.publish()
    assert "have not got" not in str(shown())


def test_who_has_it_is_not_told_before_all_were_asked(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(lab)
    at = ("--folder", lab.party)
    assert command("coordinator", "publish", "second", *at) == 0
    lab.away = {"site-2"}
    lab.publish()

    def shown() -> str:
        capsys.readouterr()
        assert command("coordinator", "publish", "second", "--show", *at) == 0
        return capsys.readouterr().out

    assert "waits until the service can carry it" in shown()
    with closing(RunsDb(lab.party / "state" / "runs.db")) as registry:
        registry.count_start("second")
        assert "is being carried" in shown() and "have not got" not in shown()
        registry.move("second", "finished")
    assert "carr" not in shown() and "1 of 3 have not got all of it" in shown()


def test_who_has_it_is_told_without_a_registry_that_can_be_read(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(lab)
    lab.publish()
    (lab.party / "state" / "runs.db").write_bytes(b"not a database" * 100)
    for left in (lab.party / "state").glob("runs.db-*"):
        left.unlink()
    assert command("coordinator", "publish", "second", "--show", "--folder", lab.party) == 0
    assert capsys.readouterr().out.count("RECEIVED") == 3


def test_who_left_the_roster_is_not_waited_for(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.publish()
    found = lab.place("second").deliveries()
    lab.place("second").write_deliveries(
        {**found, "missed": {**found["missed"], "site-9": "SITE_GONE"}})
    assert command("coordinator", "publish", "second", "--show", "--folder", lab.party) == 0
    shown = capsys.readouterr().out
    (row,) = [line for line in shown.splitlines() if "site-9" in line]
    assert "not in the roster any more" in row and "have not got" not in shown


@pytest.mark.parametrize(("state", "hint"), [
    ("stopped", "launch its plan again"), ("failed", "status"), ("paused", "status"),
])
def test_a_run_without_an_outcome_is_refused_by_its_state(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str], state: RunState, hint: str
) -> None:
    with closing(RunsDb(lab.party / "state" / "runs.db")) as registry:
        registry.add("ended", plan_digest="0" * 64)
        registry.move("ended", state)
    assert command("coordinator", "publish", "ended", "--folder", lab.party) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "RUN_STATE" in told and hint in told
    assert not lab.place("ended").folder.exists()


def test_one_that_is_being_published_is_not_attested_again(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(lab)
    assert command("coordinator", "publish", "second", "--folder", lab.party) == 0
    before = lab.log().records
    assert command("coordinator", "publish", "second", "--folder", lab.party) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "being published already" in told and "--show" in told
    assert lab.log().records == before


def test_a_publication_behind_another_run_says_so(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    registered(lab)
    with closing(RunsDb(lab.party / "state" / "runs.db")) as registry:
        registry.add("stuck", plan_digest="0" * 64)
        registry.count_start("stuck")
    assert command("coordinator", "publish", "second", "--folder", lab.party) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "waits until stuck has ended or is paused" in out
    assert "medunlearn coordinator pause stuck" in out


@pytest.mark.parametrize(("mark", "code"), [
    ("retired", "PARTY_RETIRED"), ("history-lost", "HISTORY_LOST_RUN"),
])
def test_a_coordinator_that_moved_or_lost_its_history_attests_nothing(
    lab: PublishingLab, capsys: pytest.CaptureFixture[str], mark: str, code: str
) -> None:
    """Two copies of one log would grow apart, and hospitals refuse the shorter one."""
    registered(lab)
    if mark == "retired":
        (lab.party / RETIRED_FILE).write_text("{}\n")
    else:
        HistoryLost(restored_at=2, backup_at=1, known_runs=("second",)).write(lab.party)
    before = lab.log().records
    assert command("coordinator", "publish", "second", "--folder", lab.party) == 2
    assert code in capsys.readouterr().err
    assert lab.log().records == before and not lab.place("second").folder.exists()


def test_a_published_folder_and_an_inbox_verify_as_deployed(
    received: PublishingLab, capsys: pytest.CaptureFixture[str]
) -> None:
    root = received.base / "sites" / "site-0" / TRUST_FOLDER / "root.cbor"
    for folder in (received.place("second").folder, received.inbox(0)):
        assert command("verify", folder, "--root", root) == 0
        shown = capsys.readouterr().out
        assert "deployed run second" in shown and "Kind: a deployed run." in shown
        assert "One machine made all keys" not in shown
        assert folder.stat().st_mode & 0o777 == 0o700
    (received.inbox(0) / "result.json").write_bytes(b"{}")
    assert command("verify", received.inbox(0), "--root", root) == 2
    assert "step 7 (result) failed at result.json" in capsys.readouterr().err


def test_a_hospitals_day(
    received: PublishingLab, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    at = ("--folder", received.site(0).folder)
    ann = ("--by", "Ann Lee")
    assert command("hospital", "inbox", *at) == 0
    shown = capsys.readouterr().out
    assert "first: sound" in shown and "in service: the base model alone" in shown
    assert command("hospital", "measure", "second", "--most", "2", "--device", "cpu", *at) == 0
    assert "nothing" not in capsys.readouterr().out
    assert command("hospital", "countersign", "second", *ann, "--reason", "fine", *at) == 0
    assert command("hospital", "adopt", "second", *ann, *at) == 0
    assert "adopted/current/adapter" in capsys.readouterr().out.replace("\n", "")
    assert command("hospital", "object", "second", *ann, "--reason", "worse", *at) == 0
    assert command("hospital", "inbox", "second", *at) == 0
    shown = capsys.readouterr().out
    assert "second: sound, in service" in shown and "measured here" in shown
    assert "objected (Ann Lee); not in the coordinator's log yet" in shown
    assert command("hospital", "adopt", "first", *ann, *at) == 2
    assert "ADAPTER_OLDER" in capsys.readouterr().err
    assert command("hospital", "rollback", *ann, *at) == 0
    assert "the base model alone" in capsys.readouterr().out
    weights = received.inbox(0) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(b"x")
    assert command("hospital", "inbox", *at) == 0
    assert "second: NOT SOUND [FILE_CHANGED]" in capsys.readouterr().out
