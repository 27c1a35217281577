"""`medunlearn hospital` as a person types it."""

from __future__ import annotations

import fcntl
import json
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from joining_lab import HOME

from medunlearn_client.policy import PrivacyLimits, SitePolicy, policy_template
from medunlearn_client.service.approvals import Approvals
from medunlearn_client.service.config import HospitalPaths, hospital_template
from medunlearn_client.service.node_link import NodeLink
from medunlearn_client.service.status import SiteStatus
from medunlearn_common.cli import COMMAND_GROUP, CommandLine
from medunlearn_common.errors import Rejected
from medunlearn_common.keeping.stopped import SERVICE_LOCK
from medunlearn_common.offer import RunOffer
from medunlearn_common.plan import RunPlan

PROJECT = Path(__file__).resolve().parents[3] / "pyproject.toml"


def run(*arguments: str) -> int:
    """As the console script, with the entry points of this checkout."""
    declared = tomllib.loads(PROJECT.read_text())["project"]["entry-points"][COMMAND_GROUP]
    entries = [EntryPoint(name=name, value=value, group=COMMAND_GROUP)
               for name, value in declared.items()
               if value.startswith("medunlearn_client.service.")]
    line = CommandLine()
    return line.run(line.build(entries), ["hospital", *arguments])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hospital.toml").write_text(hospital_template())
    return tmp_path


def test_status_of_a_hospital_that_never_ran_says_what_to_do(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("status", "--folder", str(folder)) == 2
    assert "STATUS_MISSING" in capsys.readouterr().err
    assert run("stop", "--folder", str(folder)) == 0
    assert "no service runs" in capsys.readouterr().out


def test_status_says_whether_the_coordinator_lets_the_node_in(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A hospital that was never enrolled, or was revoked, showed a service that runs."""
    paths = HospitalPaths(folder=folder)
    write_trust(folder, named=False)
    paths.state.mkdir()
    with running(paths):  # and a worker that never came up
        assert run("status", "--folder", str(folder)) == 0
        assert "ROSTER_WITHOUT_US" in capsys.readouterr().out
    SiteStatus(site_id="site-1").write(paths.status)
    NodeLink(code="NODE_NOT_ADMITTED", since=1.0, at=2.0).write(paths.link)
    assert run("status", "--folder", str(folder)) == 0
    told = capsys.readouterr().out
    assert "ROSTER_WITHOUT_US" in told and "NODE_NOT_ADMITTED" not in told  # of an earlier service
    with running(paths):
        assert run("status", "--folder", str(folder)) == 0
        told = capsys.readouterr().out
        assert "does not let this hospital's node in" in told and "NODE_NOT_ADMITTED" in told
        assert run("status", "--folder", str(folder), "--json") == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["roster_code"], found["node_code"]) == (
            "ROSTER_WITHOUT_US", "NODE_NOT_ADMITTED")
        write_trust(folder, named=True)
        NodeLink(since=1.0, at=time.time()).write(paths.link)
        assert run("status", "--folder", str(folder)) == 0
        told = capsys.readouterr().out
        assert "names this hospital" in told and "let in, answered" in told


def write_trust(folder: Path, *, named: bool) -> None:
    """What is pinned and in force at ``clinic-a``."""
    trust = folder / "trust"
    trust.mkdir(exist_ok=True)
    (trust / "party.txt").write_text("clinic-a\n")
    (trust / "root.cbor").write_bytes(HOME.root.to_bytes())
    (trust / "roster.dsse").write_bytes(HOME.roster(sites=("clinic-a",) if named else ()))


@contextmanager
def running(paths: HospitalPaths) -> Iterator[None]:
    """As if a service ran for the folder."""
    with (paths.state / SERVICE_LOCK).open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        yield


def test_the_policy_that_is_checked_is_the_one_in_force(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "trust").mkdir()
    (folder / "trust" / "policy.toml").write_text(
        policy_template(SitePolicy(privacy=PrivacyLimits(max_epsilon=3.0))))
    assert run("policy", "check", "--folder", str(folder)) == 0
    assert "epsilon 3 a run" in capsys.readouterr().out
    (folder / "policy.toml").write_text(policy_template())
    monkeypatch.chdir(folder)
    assert run("policy", "check") == 0
    assert "epsilon 3 a run" in capsys.readouterr().out
    assert run("policy", "check", "policy.toml") == 0
    assert "epsilon 8 a run" in capsys.readouterr().out


def test_a_plan_is_listed_shown_and_approved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = HospitalPaths(folder=folder)
    plan = RunPlan.model_validate({})
    offer = RunOffer(run="r1", coordinator="c1", plan=plan, package_version="1", code_digest="c")
    with pytest.raises(Rejected, match="PLAN_AWAITS_APPROVAL"):
        Approvals(paths.approvals).require(offer)
    SiteStatus(site_id="site-1", errors={"PLAN_AWAITS_APPROVAL": 1}).write(paths.status)

    assert run("status", "--folder", str(folder)) == 0
    told = capsys.readouterr().out
    assert "is stopped" in told and f"plan {plan.digest[:12]} of c1 for run r1" in told
    assert run("status", "--folder", str(folder), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["waiting"] == [{"plan_digest": plan.digest, "run": "r1"}]
    assert found["service_pid"] is None

    where = ("--folder", str(folder))
    assert run("approve", plan.digest[:12], "--show", *where) == 0
    assert json.loads(capsys.readouterr().out)["run"]["rounds"] == plan.run.rounds
    assert run("approve", plan.digest[:12], *where) == 2  # by nobody
    told = capsys.readouterr().err
    assert "APPROVAL_BY" in told and "nobody is named" in told and "--by" in told
    assert run("approve", plan.digest[:12], "--by", "Ada Berg", *where) == 0
    assert "already" not in capsys.readouterr().out
    assert run("approve", plan.digest[:12], "--by", "Bo Dahl", *where) == 0
    assert "Ada Berg approved" in (told := capsys.readouterr().out) and "already" in told
    assert Approvals(paths.approvals).require(offer).by == "Ada Berg"
    assert run("decline", plan.digest[:12], "--by", "Ada Berg", *where) == 0  # yes to no
    with pytest.raises(Rejected, match="PLAN_DECLINED"):
        Approvals(paths.approvals).require(offer)


def test_one_plan_is_shown_and_another_is_approved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A coordinator makes two plans whose digests begin alike (2^24 hashes for the twelve digits
    that are listed) and offers the harsh one once a person has decided on the mild one."""
    approvals, where = HospitalPaths(folder=folder).approvals, ("--folder", str(folder))
    mild = RunPlan.model_validate({})
    offered(approvals, run="r1", plan=mild)
    assert run("approve", mild.digest[:12], "--by", "Ada Berg", *where) == 0
    offered(approvals, run="r2", plan=RunPlan.model_validate({"privacy": {"epsilon": 7.5}}),
            digest=mild.digest[:12] + "0" * 52)
    capsys.readouterr()
    for wish in (["--show"], ["--by", "Ada Berg"], ["--run", "r2", "--by", "Ada Berg"]):
        assert run("approve", mild.digest[:12], *wish, *where) == 2
        told = capsys.readouterr()
        assert "APPROVAL_AMBIGUOUS" in told.err and not told.out
    assert [one.decision for one in Approvals(approvals).all()] == ["approved", "waiting"]
    assert run("approve", mild.digest[:12] + "0" * 52, "--show", *where) == 0
    assert json.loads(capsys.readouterr().out)["privacy"]["epsilon"] == 7.5


def offered(approvals: Path, *, run: str, plan: RunPlan, digest: str = "") -> None:
    """A plan that waits, under another digest if one is given."""
    before = set(approvals.glob("*.json"))
    with pytest.raises(Rejected, match="PLAN_AWAITS_APPROVAL"):
        Approvals(approvals).require(RunOffer(
            run=run, coordinator="c1", plan=plan, package_version="1", code_digest="c"))
    (path,) = set(approvals.glob("*.json")) - before
    asked = json.loads(path.read_text())
    path.write_text(json.dumps({**asked, "plan_digest": digest or plan.digest}))


def test_the_policy_commands_are_here_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("policy", "init", str(folder / "policy.toml")) == 0
    assert run("policy", "check", str(folder / "policy.toml")) == 0
    assert "sums over at least 3 sites" in capsys.readouterr().out
