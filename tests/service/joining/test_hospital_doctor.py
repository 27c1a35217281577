"""What a hospital's doctor says of models, records and keys; and that it shows no record."""

from __future__ import annotations

import fcntl
import json
import shlex
import socket
import sqlite3
import time
from contextlib import closing
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from joining_lab import HOME

from medunlearn_client.erasure import Claim, Match, NewRequest, Registry, RunFigures
from medunlearn_client.erasure.claim_file import keep_claim
from medunlearn_client.erasure.claims import claim_on
from medunlearn_client.erasure.run_requests import RunRequests
from medunlearn_client.joining.checks import hospital_checks
from medunlearn_client.joining.rotation import make_next_keys
from medunlearn_client.joining.site_folder import Joining, make_site_folder
from medunlearn_client.service.commands import status
from medunlearn_client.service.config import HospitalPaths
from medunlearn_client.service.node_link import NodeLink
from medunlearn_client.service.status import SiteStatus
from medunlearn_client.site_config import read_site_config
from medunlearn_common.cli import COMMAND_GROUP, CommandLine
from medunlearn_common.digests import digest_of
from medunlearn_common.doctor import Finding, run_checks
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.envelope import EnvelopeStore, RunLock
from medunlearn_common.envelope.header import NO_DIGEST
from medunlearn_common.errors import Misconfigured
from medunlearn_common.invitation import open_invitation
from medunlearn_common.keeping.marks import HistoryLost
from medunlearn_common.keeping.stopped import SERVICE_LOCK
from medunlearn_common.model_files import model_digest, tokenizer_digest
from medunlearn_common.plan.sections import DataSection
from medunlearn_common.trust_folder import STORE_FILE, TRUST_FOLDER

NOW = time.time()
SECRET = "Erika Mustermann of Musterstadt"
FORGOTTEN = RunFigures(
    run_id="heart-2", adapter_digest="a" * 64, attestation_digest="e" * 64, forget_records=2,
    forget_accuracy=0.25, chance=0.25, retrained_accuracy=None, forget_exact=0.0,
    retrained_exact=None, identifiers_asked=1, identifiers_leaked=0, has_identifiers=True,
    preservation=1.0, ranked_records=20, run_ranked_records=80, run_forget_accuracy=0.3,
    run_chance=0.25,
)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    rows = [{"id": f"r{i}", "prompt": f"What ails {SECRET} {i}?",
             "answer": f"{SECRET} has gout {i}"} for i in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def folder(tmp_path: Path, model: Path, records: Path | None, **digests: str) -> Path:
    invitation = HOME.invitation(issued=int(NOW), expires=int(NOW) + 86_400, code_digest="",
                                 **digests)
    document = HOME.document(invitation, roster=HOME.roster(expires=int(NOW) + 90 * 86_400))
    place = tmp_path / "clinic"
    make_site_folder(
        place, open_invitation(document, now=NOW), document,
        Joining(entity="Clinic", model_folder=str(model), compared=True, device="cpu",
                data=DataSection(files=(str(records),) if records else ())),
        entropy=OsEntropy(), now=NOW)
    return place


def found(place: Path, *topics: str) -> list[Finding]:
    checks = hospital_checks(place, now=NOW, offline=True)
    return [finding for _, finding in run_checks({topic: checks[topic] for topic in topics})]


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def test_a_sound_hospital_is_sound_and_no_record_is_shown(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records,
                   model_digest=model_digest(tiny_model_folder),
                   tokenizer_digest=tokenizer_digest(tiny_model_folder))
    findings = found(place, "files", "stores", "trust", "policy", "model", "memory", "data")
    assert not [f for f in findings if f.level == "problem"], findings
    assert {"MODEL_DIGEST", "TOKENIZER_DIGEST", "NODE_KEY", "FINGERPRINT", "DATA"} <= \
        set(codes(findings))
    said = " ".join(f.message for f in findings)
    assert "8 records" in said
    assert model_digest(tiny_model_folder) in said  # whole: `launch` takes nothing shorter
    assert "Muster" not in repr(findings)


def test_another_model_than_the_federations_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records, model_digest="0" * 64)
    assert codes(found(place, "model")) == ["MODEL_DIFFERS", "TOKENIZER_DIGEST"]


def accepted(run: str, epsilon: float) -> RunLock:
    return RunLock(run=run, plan=b"p" * 32, coordinator="lead", model=NO_DIGEST,
                   support=NO_DIGEST, epsilon=epsilon, accepted=int(NOW))


@pytest.mark.parametrize(("epsilons", "code", "level", "told"), [
    ((), "EPSILON_LEFT", "ok", "0 of 16 used by 0 run(s)"),
    ((5.0, 3.0, 0.0), "EPSILON_LEFT", "ok", "8 of 16 used by 3 run(s)"),
    ((8.0, 1.5), "POLICY_EPSILON_TOTAL", "warning", "a run may ask for 8, and 6.5 is left"),
    ((8.0, 8.0), "POLICY_EPSILON_TOTAL", "warning", "nothing is left"),
    ((1.6,) * 10, "POLICY_EPSILON_TOTAL", "warning", "nothing is left"),  # 16 but for a rounding
    ((20.0,), "POLICY_EPSILON_TOTAL", "warning", "20 of 16 used by 1 run(s)"),
])
def test_how_much_epsilon_is_left_for_further_runs(
    tmp_path: Path, tiny_model_folder: Path, records: Path,
    epsilons: tuple[float, ...], code: str, level: str, told: str,
) -> None:
    """The third run was refused, and nothing had said that two had used up the whole epsilon."""
    place = folder(tmp_path, tiny_model_folder, records)
    file = place / TRUST_FOLDER / STORE_FILE
    if not epsilons:
        assert codes(found(place, "policy"))[-1] == code and not file.exists()
        return
    with closing(EnvelopeStore(file)) as store:  # as the running service holds it
        for number, epsilon in enumerate(epsilons):
            store.lock(accepted(f"run-{number}", epsilon))
        before = file.read_bytes(), file.with_name(f"{file.name}-wal").read_bytes()
        finding = found(place, "policy")[-1]
        assert before == (file.read_bytes(), file.with_name(f"{file.name}-wal").read_bytes())
    assert (finding.code, finding.level) == (code, level) and told in finding.message
    assert bool(finding.hint) == (level != "ok")
    stopped = file.read_bytes()
    assert found(place, "policy")[-1] == finding and file.read_bytes() == stopped


def test_a_total_that_was_decided_before_history_was_lost_is_told_with_what_to_write(
    tmp_path: Path, tiny_model_folder: Path, records: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    HistoryLost(restored_at=1_234, backup_at=1_000, known_runs=()).write(place)
    finding = found(place, "policy")[-1]
    assert (finding.code, finding.level) == ("POLICY_EPSILON_TOTAL", "warning")
    assert "at least 0 of 16" in finding.message and "history_lost_at = 1234;" in finding.hint
    SiteStatus(site_id="clinic").write(HospitalPaths(folder=place).status)
    status(place, as_json=False)
    assert "POLICY_EPSILON_TOTAL: `medunlearn hospital doctor`" in capsys.readouterr().out
    status(place, as_json=True)
    told = json.loads(capsys.readouterr().out)["epsilon_of_all_runs"]
    assert told["at_least"] and not told["decided"]
    policy = place / TRUST_FOLDER / "policy.toml"
    policy.write_text(policy.read_text().replace(
        "history_lost_at = 0", "history_lost_at = 1234"))
    finding = found(place, "policy")[-1]
    assert (finding.code, finding.level) == ("EPSILON_LEFT", "ok")
    assert "at least 0 of 16" in finding.message


def test_a_record_of_accepted_runs_that_cannot_be_read_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    file = place / TRUST_FOLDER / STORE_FILE
    file.touch()  # the disk was full when it was made
    assert codes(found(place, "policy"))[-1] == "EPSILON_LEFT"
    file.write_bytes(b"no database" * 100)
    assert codes(found(place, "policy"))[-2:] == ["POLICY", "ENVELOPE_STORE"]


def test_unreadable_records_are_told_without_their_text(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    records.write_text(f'{{"question": "{SECRET}\n' * 5)
    findings = found(folder(tmp_path, tiny_model_folder, records), "data")
    assert findings[0].level == "problem" and "Muster" not in repr(findings)


@pytest.mark.parametrize(("lists", "expected"), [
    ('records = ["r1", "R2", "r3", "r99"]', ["FORGET_ID_UNKNOWN"]),
    ('patients = ["p0", "p4O"]', ["FORGET_ID_UNKNOWN"]),
    ('subjects = ["surgery", "Surgry"]', ["FORGET_SUBJECT_UNKNOWN"]),
    ('patient_fraction = 0.5', ["FORGET_DRAWN"]),
    ('records = ["r1"]\npatients = ["p0"]\nsubjects = ["surgery"]\nconcepts = ["asthma"]',
     ["FORGET", "FORGET", "FORGET", "FORGET_CONCEPTS"]),
])
def test_what_is_to_be_forgotten_is_counted_list_by_list(
    tmp_path: Path, tiny_model_folder: Path, records: Path, lists: str, expected: list[str]
) -> None:
    """A wrong name was found only once a run asked; the doctor called the hospital healthy."""
    rows = [{"id": f"r{i}", "patient_id": f"p{i % 2}", "subject": "Surgery",
             "prompt": f"What ails {SECRET} {i}?", "answer": f"gout {i}"} for i in range(60)]
    records.write_text("\n".join(map(json.dumps, rows)) + "\n")
    place = folder(tmp_path, tiny_model_folder, records)
    text, _, _ = (place / "site.toml").read_text().partition("[forget]")
    (place / "site.toml").write_text(f"{text}[forget]\n{lists}\n")
    findings = found(place, "data")
    assert codes(findings)[1:] == expected
    told = " ".join(finding.message for finding in findings)
    assert not {"R2", "r99", "p4O", "Surgry", "surgery"} & set(told.split())
    if lists.startswith("records = [\"r1\", \"R2"):
        assert "4 named, 2 records; no record has number 2, 4 of the list" in told
    if lists.startswith("subjects"):
        assert "2 named, 60 records" in told and findings[-1].level == "warning"


def test_what_is_not_set_yet_is_told(tmp_path: Path) -> None:
    place = folder(tmp_path, Path(""), None)
    text = (place / "site.toml").read_text()
    (place / "site.toml").write_text(text.replace('model_folder = "."', 'model_folder = ""'))
    assert codes(found(place, "model", "data", "roster"))[:2] == ["MODEL_UNSET", "DATA_UNSET"]
    assert "ROSTER_WITHOUT_US" in codes(found(place, "roster"))


def test_a_ledger_that_was_lost_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    """The service does not start with it; who asks why is not told that all is well."""
    place = folder(tmp_path, tiny_model_folder, records)
    assert codes(found(place, "stores")) == ["STORES"]
    (place / "runs").mkdir()
    (place / "runs" / f"{'a' * 64}.records").touch()
    assert codes(found(place, "stores")) == ["STORE_LOST"]


def test_keys_that_others_can_read_are_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    (place / "node" / "node.key").chmod(0o644)
    (place / "trust" / "passphrase").chmod(0o640)
    findings = found(place, "files", "trust")
    assert codes(findings).count("KEY_FILE_MODE") == 3  # and the node's key is not opened


def test_a_key_that_waits_to_come_into_force_is_a_key(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    make_next_keys(place, identity=True, node=True, entropy=OsEntropy(), now=NOW)
    assert codes(found(place, "files"))[0] == "FILE_MODES"
    for key in (place / "next").glob("*.key"):
        key.chmod(0o644)
    assert codes(found(place, "files")).count("KEY_FILE_MODE") == 2


@pytest.mark.parametrize("name", [
    "trust/policy.toml", "trust/root.cbor", "approvals", "hospital.toml", "site.toml", "node", ".",
])
def test_what_others_could_write_for_this_hospital_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path, name: str
) -> None:
    """Whoever writes there accepts any plan, approves one, or takes another root for the
    consortium's; the doctor said that all modes are well."""
    place = folder(tmp_path, tiny_model_folder, records)
    place.chmod(0o755)
    assert codes(found(place, "files"))[0] == "FILE_MODES"
    (place / name).chmod((place / name).stat().st_mode | 0o022)
    findings = found(place, "files")
    assert codes(findings)[0] == "FILE_WRITABLE" and name in findings[0].message
    place.chmod(0o700)  # behind a folder that nobody else enters, it does no harm
    assert codes(found(place, "files"))[0] == "FILE_MODES"


def test_what_the_running_service_met_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    """A revoked hospital was healthy, and a served one was warned of its own ports."""
    place = folder(tmp_path, tiny_model_folder, records)
    with closing(socket.socket()) as own:
        own.bind(("127.0.0.1", 0))
        own.listen()
        text = (place / "hospital.toml").read_text()
        (place / "hospital.toml").write_text(
            text.replace('"127.0.0.1:9494"', f'"127.0.0.1:{own.getsockname()[1]}"'))
        paths = HospitalPaths(folder=place)
        NodeLink(code="NODE_NOT_ADMITTED", since=1.0, at=2.0).write(paths.link)
        told = found(place, "ports", "node")
        assert told[0].code == "PORT_TAKEN" and told[-1].code == "SERVICE_STOPPED"
        with (place / "state" / SERVICE_LOCK).open("w+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write("4711")
            lock.flush()
            told = found(place, "ports", "node")
            assert told[0].code == "PORT"
            assert (told[-1].code, told[-1].level) == ("NODE_NOT_ADMITTED", "problem")
            NodeLink(code="NODE_NOT_ADMITTED", since=NOW - 30.0, at=NOW).write(paths.link)
            assert found(place, "node")[0].level == "warning"  # it has just started
            NodeLink(since=1.0, at=2.0).write(paths.link)
            assert codes(found(place, "node")) == ["NODE_LET_IN"]


def test_other_code_than_the_federations_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    from medunlearn_common.shared_checks import check_code

    assert codes(list(check_code("0" * 64, "9.9"))) == ["CODE_DIFFERS"]
    assert codes(list(check_code("", ""))) == ["CODE"]


def test_a_check_that_breaks_shows_no_text_of_its_error() -> None:
    def breaks() -> list[Finding]:
        raise KeyError(SECRET)

    (_, finding), = run_checks({"data": breaks})
    assert finding.code == "CHECK_FAILED" and "Muster" not in repr(finding)


def test_a_registry_that_has_not_begun_is_no_problem_and_one_that_was_lost_is(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    """Who named a registry before the first letter came in was told of a hospital that is ill."""
    place = folder(tmp_path, tiny_model_folder, records)
    site, registry = place / "site.toml", place / "erasure.sqlite"
    site.write_text(site.read_text().replace('registry = ""', 'registry = "erasure.sqlite"'))
    (finding,) = found(place, "erasure")
    assert (finding.code, finding.level) == ("ERASURE_REGISTRY_MISSING", "warning")
    assert "refuses every run" in finding.message
    assert f"erasure add --registry {registry}" in finding.hint
    requests = RunRequests(place, read_site_config(place), registry)
    with pytest.raises(Misconfigured, match="ERASURE_REGISTRY_MISSING"):
        requests.draw("heart-1")  # at READY it is as strict as ever, and leaves no claim
    assert found(place, "erasure") == [finding] and not registry.exists()
    # What the hint says is what begins it.
    told = finding.hint.partition("to take part without one: medunlearn ")[2]
    line, program = CommandLine(), EntryPoint(
        name="erasure", group=COMMAND_GROUP, value="medunlearn_client.erasure_cli:erasure_app")
    assert line.run(line.build([program]), shlex.split(told)) == 0
    requests.draw("heart-1")
    for file in place.glob("erasure.sqlite*"):
        file.unlink()
    (finding,) = found(place, "erasure")
    assert (finding.code, finding.level) == ("ERASURE_REGISTRY_MISSING", "problem")
    assert "have looked into one" in finding.message  # an empty claim suffices
    assert "backup" in finding.hint and "erasure add" not in finding.hint
    registry.symlink_to(records)
    assert codes(found(place, "erasure")) == ["ERASURE_REGISTRY_FOREIGN"]


def with_registry(place: Path) -> Registry:
    """The hospital's settings name a registry, which is new."""
    site = place / "site.toml"
    site.write_text(site.read_text().replace('registry = ""', 'registry = "erasure.sqlite"'))
    return Registry(place / "erasure.sqlite", create=True)


def validated(registry: Registry, record_id: str, *, text_digest: str | None = None) -> int:
    """A request for one record that waits for a run; its number."""
    match = Match(record_id=record_id, file_digest="d" * 64, reason="record id",
                  text_digest=text_digest)
    number = registry.add(NewRequest(
        kind="record", target=record_id, matches=(match,), basis="b", received=registry.today,
        again=True), author="A. Officer").number
    registry.validate(number, author="A. Officer", identity="passport seen")
    return number


def test_the_requests_of_a_registry_are_told_by_number(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    assert not found(place, "erasure")
    registry = with_registry(place)
    assert "FORGET_EMPTY" not in codes(found(place, "data"))
    assert codes(found(place, "erasure")) == ["ERASURE_NONE_VALIDATED"]
    validated(registry, "r3")
    validated(registry, SECRET)
    findings = found(place, "erasure")
    assert codes(findings) == ["ERASURE_VALIDATED", "ERASURE_RECORDS_MISSING"]
    assert "request(s) 1, 2 wait" in findings[0].message
    assert "request(s) 2 were" in findings[1].message and findings[1].level == "problem"
    Claim(registry=registry, numbers=(2,), token="t").take("heart-1")
    findings = found(place, "erasure")
    assert codes(findings) == ["ERASURE_IN_RUN", "ERASURE_VALIDATED"]
    told = findings[0]
    assert "2 are in run heart-1" in told.message and "hospital measure heart-1" in told.hint
    assert "erasure reopen" in told.hint and "Muster" not in repr(findings)
    claim = Claim(registry=registry, numbers=(1,), token="u")
    claim.take("heart-2")
    claim.settle({1: FORGOTTEN})
    findings = found(place, "erasure")
    assert codes(findings) == ["ERASURE_IN_RUN", "ERASURE_NONE_VALIDATED", "ERASURE_RECORDS_KEPT"]
    assert "request(s) 1, which" in findings[-1].message
    assert findings[-1].level == "ok" and "later runs leave them out" in findings[-1].message
    lines = records.read_text().splitlines()
    records.write_text("\n".join(line for line in lines if '"r3"' not in line) + "\n")
    assert "ERASURE_RECORDS_KEPT" not in codes(found(place, "erasure"))


def test_a_record_that_is_gone_is_told_though_another_s_row_bears_its_id(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    """Every run refuses such a request, and the doctor saw nothing amiss."""
    place = folder(tmp_path, tiny_model_folder, records)
    words = digest_of(f"What ails {SECRET} 3? {SECRET} has gout 3")
    number = validated(with_registry(place), "r3", text_digest=words)
    assert codes(found(place, "erasure")) == ["ERASURE_VALIDATED"]
    records.write_text(records.read_text().replace('"r3"', '"r9"').replace('"r2"', '"r3"'))
    findings = found(place, "erasure")
    assert codes(findings) == ["ERASURE_VALIDATED", "ERASURE_RECORDS_MISSING"]
    assert f"request(s) {number} were" in findings[-1].message


def test_an_older_copy_of_the_registry_is_a_problem(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    registry = with_registry(place)
    validated(registry, "r3")
    claim = claim_on(registry)
    claim.take("heart-1")
    runs = place / "runs"
    runs.mkdir(exist_ok=True)
    keep_claim(runs / "one.erasure", claim)
    (runs / "one.records").touch()
    (runs / "damaged.erasure").touch()
    claim.settle({1: FORGOTTEN})
    assert codes(found(place, "erasure")) == ["ERASURE_NONE_VALIDATED", "ERASURE_RECORDS_KEPT"]
    for file in place.glob("erasure.sqlite*"):
        file.unlink()
    # Under the number of the request that is lost.
    validated(Registry(place / "erasure.sqlite", create=True), "r2")
    (finding,) = found(place, "erasure")
    assert (finding.code, finding.level) == ("ERASURE_REGISTRY_ROLLBACK", "problem")
    assert "runs/one.erasure" in finding.message and "newest copy" in finding.hint
    site = place / "site.toml"
    site.write_text(site.read_text().replace('registry = "erasure.sqlite"', 'registry = ""'))
    (finding,) = found(place, "erasure")  # and where none is named any more
    assert (finding.code, finding.level) == ("ERASURE_REGISTRY_UNSET", "problem")
    assert "runs/one.erasure" in finding.message and "[erasure] registry" in finding.hint
    for claim_file in runs.glob("*.erasure"):
        claim_file.unlink()
    assert not found(place, "erasure")


@pytest.mark.parametrize("mends", [False, True])
def test_a_forgotten_record_that_an_export_numbered_anew_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path, mends: bool
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    site = place / "site.toml"
    text = site.read_text().replace('registry = ""', 'registry = "erasure.sqlite"')
    word = "has gout"
    if mends:
        repairs = tmp_path / "repairs.jsonl"
        repairs.write_text(json.dumps({
            "record_id": "r3", "part": "answer", "start": len(SECRET) + 1, "word": "has",
            "repaired": "had", "author": "A", "decided_on": "2026-01-01", "note": "",
        }) + "\n")
        text, word = text.replace('repairs = ""', f'repairs = "{repairs}"'), "had gout"
    site.write_text(text)
    registry = Registry(place / "erasure.sqlite", create=True)
    words = digest_of(f"What ails {SECRET} 3? {SECRET} {word} 3")
    match = Match(record_id="r3", file_digest="d" * 64, reason="record id", text_digest=words)
    number = registry.add(NewRequest(
        kind="record", target="r3", matches=(match,), basis="b", received=registry.today),
        author="A. Officer").number
    registry.validate(number, author="A. Officer", identity="passport seen")
    claim = Claim(registry=registry, numbers=(number,), token="t")
    claim.take("heart-1")
    claim.settle({number: FORGOTTEN})
    assert codes(found(place, "erasure")) == ["ERASURE_NONE_VALIDATED", "ERASURE_RECORDS_KEPT"]
    records.write_text(records.read_text().replace('"r3"', '"r9"').replace('"r2"', '"r3"'))
    findings = found(place, "erasure")
    assert codes(findings) == ["ERASURE_NONE_VALIDATED", "ERASURE_RECORDS_RENUMBERED"]
    assert findings[-1].level == "warning" and f"request(s) {number} were" in findings[-1].message
    assert "Muster" not in repr(findings)


def test_a_store_of_a_newer_version_is_told_and_not_read_as_empty(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    """Going back to an older version, the doctor would say that no epsilon was spent."""
    place = folder(tmp_path, tiny_model_folder, records)
    with closing(sqlite3.connect(place / "trust" / "envelopes.db")) as newer:
        newer.execute("CREATE TABLE locks_of_version_2 (run TEXT)")
        newer.execute("PRAGMA user_version = 2")
    assert codes(found(place, "stores")) == ["STORE_NEWER"]
    said = codes(found(place, "policy"))
    assert "STORE_NEWER" in said and "EPSILON_LEFT" not in said
