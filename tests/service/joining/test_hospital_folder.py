"""A hospital's folder from `init` to a move: what is noticed early, asked for, and copied."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import typer
from joining_desk import NOW, Desk, app_of, code_of
from joining_lab import RIVAL
from typer.testing import CliRunner

from medunlearn_client.joining import commands as hospital
from medunlearn_client.joining.checks import hospital_checks
from medunlearn_client.joining.rotation import make_next_keys
from medunlearn_client.joining.site_folder import leave_federation, take_roster
from medunlearn_client.policy import accepted_runs, total_epsilon
from medunlearn_client.site_config import read_site_config
from medunlearn_common import founding
from medunlearn_common.accounting import Mechanism
from medunlearn_common.audit import AuditLog
from medunlearn_common.audit.signing import site_log
from medunlearn_common.doctor import run_checks
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.envelope.store import RunLock, read_locks
from medunlearn_common.errors import Misconfigured
from medunlearn_common.founding import require_confirmed
from medunlearn_common.invitation import invitation_fingerprint
from medunlearn_common.keeping import PartyMarks, make_backup, require_no_store_lost, restore
from medunlearn_common.keeping.stopped import stopped
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.ledger.spending import Budget
from medunlearn_common.trust_folder import open_identity, open_trust

pytestmark = pytest.mark.usefixtures("a_clock_that_starts_when_tests_are_collected")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(path=tmp_path).found()


@pytest.mark.parametrize("model", ["/srv/nope", "./nope", "~/nope", "nope", "a/b/c"])
def test_a_model_that_is_not_there_is_noticed_before_keys_are_made(
    desk: Desk, model: str
) -> None:
    with pytest.raises(Misconfigured) as caught:
        desk.site("clinic-a", None, "--trust-on-first-use", "--model", model)
    assert caught.value.code == "MODEL_MISSING"
    assert not (desk.path / "clinic-a").exists()


def test_joining_with_nothing_in_hand_does_not_read_like_success(desk: Desk) -> None:
    folder = desk.site("clinic-a")
    bare = CliRunner().invoke(app_of(hospital.join), ["--folder", str(folder)])
    assert isinstance(bare.exception, Misconfigured) and bare.exception.code == "FILE_MISSING"
    make_next_keys(folder, identity=False, node=True, entropy=OsEntropy(), now=NOW)
    waiting = CliRunner().invoke(app_of(hospital.join), ["--folder", str(folder)])
    assert waiting.exit_code == 0 and "new node key is in force" in waiting.output


@pytest.mark.parametrize(("typed", "code"), [
    (["HERE"], ""), (["bodab bodab", "HERE"], ""), ([RIVAL.fingerprint], "FINGERPRINT_DIFFERS"),
])
def test_the_words_come_by_telephone_and_not_from_the_screen(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, typed: list[str], code: str
) -> None:
    """They stood above the question, for anybody to copy; a word too few ended the command."""
    here = invitation_fingerprint(desk.invite("clinic-a").read_bytes())
    answers = [here if words == "HERE" else words for words in typed]
    shown: list[str] = []

    def prompt(question: str) -> str:
        shown.append(question)
        return answers.pop(0)

    monkeypatch.setattr(typer, "prompt", prompt)
    monkeypatch.setattr(typer, "echo", shown.append)
    given = {"told": None, "first_use": False, "who": "the coordinator", "interactive": True}
    if code:
        assert code_of(require_confirmed, here, **given) == code
    else:
        assert require_confirmed(here, **given)
    assert not answers and not any(here[:11] in line for line in shown), shown
    assert ("8 words" in "".join(shown)) == (len(typed) == 2)


def test_a_party_is_whole_where_it_moved_to(desk: Desk, tmp_path: Path) -> None:
    """Nothing but the passphrase, which travels apart, and what services write anew is missing."""
    clinic = desk.joined("clinic-a")
    (clinic / "supports").mkdir()
    (clinic / "supports" / f"{'a' * 64}.npy").write_bytes(bytes(8))
    for folder in (clinic, desk.lead):
        archive, moved = tmp_path / f"{folder.name}.tar", tmp_path / "moved" / folder.name
        make_backup(folder, archive, final=True)
        restore(archive, moved)
        assert (folder / "trust" / "roster.lock").stat().st_mode & 0o077 == 0
        left = {"trust/passphrase", "trust/roster.lock", "retired.json"}
        assert files(folder) - files(moved) == left | (
            {"root/passphrase"} if folder == desk.lead else set())
        assert files(moved) <= files(folder)
        shutil.copy(folder / "trust" / "passphrase", moved / "trust" / "passphrase")
    checks = hospital_checks(tmp_path / "moved" / "clinic-a", now=NOW, offline=True)
    found = run_checks({topic: checks[topic] for topic in ("files", "trust", "roster", "policy")})
    assert not [finding for _, finding in found if finding.level == "problem"]


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")
            if path.is_file() and path.relative_to(folder).parts[0] != "state"}


# A hospital that comes back.

RUN = "run-1-0123456789ab"


@pytest.fixture
def spent(desk: Desk) -> Path:
    """A hospital that took part in a run, left, and is in no roster any more."""
    for site in ("clinic-b", "clinic-c"):
        desk.joined(site)
    folder = desk.joined("clinic-a")
    PrivacyLedger(folder / "ledger.db").charge(
        run_id=RUN, release="round-0", request_digest="a" * 64, budget=BUDGET,
        mechanism=Mechanism(sigma=3.0, forget_rate=0.1, retain_rate=0.1, count=1))
    with closing(open_trust(folder)) as trust:
        trust.store.lock(RunLock(
            run=RUN, plan=b"1" * 32, coordinator="coordinator", model=b"0" * 32,
            support=b"0" * 32, epsilon=8.0, accepted=int(NOW)))
    own_log(folder).append("release_charged", run_id=RUN, release="round-0",
                           request_digest="a" * 64, sigma=3.0, count=1)
    (folder / "erasure.sqlite").write_bytes(b"requests")  # it comes along as it is
    site = folder / "site.toml"
    site.write_text(site.read_text().replace('registry = ""', 'registry = "erasure.sqlite"')
                    .replace("# budget_epsilon = 8.0", "budget_epsilon = 5.0"))
    leave_federation(folder, now=NOW)
    desk.members().advance(revoke="clinic-a")
    return folder.rename(desk.path / "before")


BUDGET = Budget(epsilon=8.0, delta=1e-5)


def own_log(folder: Path) -> AuditLog:
    return AuditLog(folder / "audit.db", origin=site_log("clinic-a"),
                    signer=open_identity(folder))


def counted(folder: Path) -> tuple[float, float]:
    """Epsilon by the ledger, and what accepted runs may spend, by the policy's count."""
    ledger = PrivacyLedger(folder / "ledger.db").cumulative_epsilon(unit="record", delta=1e-5)
    return ledger, total_epsilon(accepted_runs(read_locks(folder / "trust" / "envelopes.db")))


def test_what_was_spent_stays_spent_when_a_hospital_comes_back(desk: Desk, spent: Path) -> None:
    """With a new folder alone, leaving and coming back was a second budget."""
    before = counted(spent)
    assert before[0] > 0 and before[1] == 8.0
    folder = desk.site("clinic-a", None, "--trust-on-first-use", "--after", str(spent))
    assert "goes on here" in desk.told[-1] and "policy.toml" in desk.told[-1]
    desk.enrol(folder)
    take_roster(folder, desk.members().roster_file.read_bytes(), now=NOW)
    assert counted(folder) == before
    require_no_store_lost(folder)
    log = own_log(folder)
    assert log.damage is None and [record.kind for record in log.records] == ["release_charged"]
    assert (folder / "erasure.sqlite").read_bytes() == b"requests"
    settings = read_site_config(folder)
    assert settings.budget_epsilon == 5.0 and settings.registry == folder / "erasure.sqlite", \
        "without its registry whoever was forgotten would be taught again"
    assert open_identity(folder).key_id != open_identity(spent).key_id
    with closing(open_trust(folder)):
        pass  # it would serve
    assert code_of(PartyMarks(spent).require_in_service) == "PARTY_RETIRED"
    assert code_of(desk.site, "clinic-a", desk.path / "lead" / "invitations" /
                   "clinic-a.invitation", "--trust-on-first-use", "--after", str(spent)
                   ) == "PARTY_RETIRED"


def test_a_return_that_is_cut_off_leaves_no_two_folders_that_spend(
    desk: Desk, spent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old folder ends before the new one has its name, and serves again if it never gets it."""
    def no_rename(_draft: Path, _folder: Path) -> None:
        assert (spent / "retired.json").exists()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(founding.os, "rename", no_rename)
        assert code_of(desk.site, "clinic-a", None, "--trust-on-first-use", "--after",
                       str(spent)) == "WRITE_FAILED"
    assert not (desk.path / "clinic-a").exists() and not (spent / "retired.json").exists()
    desk.site("clinic-a", desk.lead / "invitations" / "clinic-a.invitation",
              "--trust-on-first-use", "--after", str(spent))
    assert (spent / "retired.json").exists()


def test_a_hospital_that_comes_back_knows_the_coordinators_keys_of_before(
    desk: Desk, spent: Path
) -> None:
    """Runs of before are published anew, and the key changed while the hospital was away."""
    before = desk.members().roster().current.party("coordinator").key_id
    assert desk.members().rotate(entropy=OsEntropy())
    folder = desk.site("clinic-a", None, "--trust-on-first-use", "--after", str(spent))
    assert [path.stem for path in (folder / "trust" / "former").iterdir()] == [before]


@pytest.mark.parametrize(("broken", "code"), [
    ("another hospital", "AFTER_OTHER_PARTY"), ("no hospital", "AFTER_OTHER_PARTY"),
    ("retired", "PARTY_RETIRED"), ("no ledger", "STORE_LOST"), ("served", "SERVICE_RUNNING"),
    ("nowhere", "BACKUP_NO_PARTY"), ("a file", "BACKUP_NO_PARTY"), ("no name", "TRUST_MISSING"),
    ("no settings", "SITE_CONFIG_INVALID"), ("a torn log", "AFTER_DAMAGED"),
    ("a torn registry", "AFTER_DAMAGED"), ("a torn page", "AFTER_DAMAGED"),
])
def test_a_folder_that_cannot_go_on_is_refused_and_nothing_is_made(
    desk: Desk, spent: Path, broken: str, code: str
) -> None:
    after, held = spent, ExitStack()
    if broken == "another hospital":
        after = desk.path / "clinic-b"
    elif broken == "no hospital":
        after = desk.lead
    elif broken == "retired":
        (spent / "retired.json").write_text("{}")
    elif broken == "no ledger":
        (spent / "ledger.db").unlink()
    elif broken == "nowhere":
        after = desk.path / "nowhere"
    elif broken == "a file":
        after = spent / "ledger.db"
    elif broken == "no name":
        (spent / "trust" / "party.txt").write_bytes(b"\xff")
    elif broken == "no settings":
        (spent / "site.toml").write_text("site_id = ")
    elif broken == "a torn log":
        (spent / "audit.db").write_bytes((spent / "audit.db").read_bytes()[:3000])
    elif broken == "a torn registry":
        (spent / "erasure.sqlite").write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    elif broken == "a torn page":
        (spent / "erasure.sqlite").unlink()
        with closing(sqlite3.connect(spent / "erasure.sqlite")) as connection:
            connection.executescript("CREATE TABLE a (b); CREATE INDEX c ON a (b);")
            connection.executemany("INSERT INTO a VALUES (?)", [("x" * 900,)] * 60)
            connection.commit()
        content = bytearray((spent / "erasure.sqlite").read_bytes())
        content[8192:12288] = bytes(4096)
        (spent / "erasure.sqlite").write_bytes(content)
    else:
        held.enter_context(stopped(spent))
    with held:
        assert code_of(desk.site, "clinic-a", None, "--trust-on-first-use", "--after",
                       str(after)) == code
    assert not (desk.path / "clinic-a").exists()
    assert broken == "retired" or not (after / "retired.json").exists()
