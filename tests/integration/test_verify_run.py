"""A finished run verifies, and each tampered copy of it is refused by the right step and file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medunlearn_common.attestation.files import Evidence
from medunlearn_common.attestation.verification import StepFailed, Verification
from medunlearn_common.audit import COORDINATOR, AuditLog
from medunlearn_common.audit.local_keys import KeyBook, local_signer
from medunlearn_common.audit.signing import coordinator_log
from medunlearn_common.cli import CommandLine
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured
from medunlearn_simulation.cli import simulate

PLAN = """\
[run]
name = "verified"
rounds = 2
[model]
source = "{model}"
target_modules = ["q_proj", "v_proj"]
lora_rank = 4
[data]
files = ["{data}"]
nonmember_fraction = 0.2
[objective]
name = "max_entropy"
[support]
method = "vote"
density = 0.01
[geometry]
projection = "none"
[privacy]
noise = "local"
epsilon = 40.0
[federation]
sites = 3
min_sites = 2
[forget]
subjects = ["Surgery"]
[evaluation]
relearning_steps = 0
samples = 0
retrained = false
"""


def command(*arguments: object) -> int:
    line = CommandLine()
    app = line.build(())
    app.command(name="simulate")(simulate)
    return line.run(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, question_file: Path
) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("verified")
    plan = folder / "plan.toml"
    plan.write_text(PLAN.format(model=tiny_model_folder, data=question_file))
    run = folder / "run"
    assert command("simulate", plan, "--out", run, "--runner", "memory", "--device", "cpu",
                   "--quiet") == 0
    yield run


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def steps(folder: Path, keys: Path | None = None) -> Verification:
    verification = Verification(evidence=Evidence.at(folder), keys=keys)
    for _ in verification.steps():
        pass
    return verification


def failing(folder: Path, keys: Path | None = None) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        steps(folder, keys)
    return caught.value


def test_a_finished_run_verifies(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("verify", finished, "--keys", finished / "roster.json") == 0
    shown = capsys.readouterr().out
    assert [f"{n:2d}. " in shown for n in range(1, 13)] == [True] * 12
    assert "Verified.\n" in shown and "not a proof of erasure" in shown
    assert "3 sites signed the log after its last round" in shown
    assert command("verify", finished) == 0
    assert "Who signed" in capsys.readouterr().out


def test_an_adapter_alone_verifies_as_far_as_it_can(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Path(shutil.copytree(finished / "adapter", tmp_path / "adapter"))
    assert command("verify", adapter, "--keys", finished / "roster.json") == 0
    shown = capsys.readouterr().out
    assert "as far as an adapter alone allows" in shown
    assert shown.count("not checked") == 5
    with pytest.raises(Misconfigured, match="VERIFY_KEYS"):
        steps(adapter)
    assert command("verify", tmp_path) == 2


ARTEFACTS = (
    ("adapter/adapter_model.safetensors", {5}),
    ("adapter/adapter_config.json", {5}),
    ("adapter/medunlearn.json", {5}),
    ("adapter/attestation.json", {2}),
    ("attestation.json", {2}),
    ("run-plan.json", {6}),
    ("result.json", {7}),
    ("report.html", {11}),
    ("roster.json", {1, 3, 8}),
    ("audit-log.jsonl", {10, 11, 12}),
)


@pytest.mark.parametrize(("name", "numbers"), ARTEFACTS)
def test_mutated_artefact(copy: Path, name: str, numbers: set[int]) -> None:
    path = copy / name
    data = path.read_bytes()
    for position in sorted({0, len(data) // 3, len(data) // 2, len(data) - 2, len(data) - 1}):
        changed = bytearray(data)
        changed[position] ^= 0x01
        path.write_bytes(bytes(changed))
        error = failing(copy)
        assert error.step.number in numbers, (position, str(error))
    path.write_bytes(data)
    steps(copy)
    assert command("verify", copy) == 0
    path.unlink()
    assert command("verify", copy) == 2


@pytest.mark.parametrize(("name", "number"), [
    ("adapter/attestation.json", 2), ("adapter/medunlearn.json", 5), ("run-plan.json", 6),
    ("result.json", 7), ("audit-log.jsonl", 10), ("report.html", 11),
])
def test_missing_artefact(copy: Path, name: str, number: int) -> None:
    (copy / name).unlink()
    error = failing(copy)
    assert (error.code, error.step.number) == ("FILE_MISSING", number)


def test_plan_file_changed_after_the_run(copy: Path) -> None:
    path = copy / "plan.toml"
    path.write_text(path.read_text().replace("epsilon = 40.0", "epsilon = 1.0"))
    error = failing(copy)
    assert (error.code, error.step.number, "plan.toml" in str(error)) == ("FILE_CHANGED", 6, True)
    path.write_text("no plan")
    assert failing(copy).code == "PLAN_UNREADABLE"


def test_file_added_beside_the_adapter(copy: Path) -> None:
    (copy / "adapter" / "adapter_model.bin").write_bytes(b"another")
    error = failing(copy)
    assert (error.code, error.step.number) == ("FILE_ADDED", 5)


def test_forged_by_somebody_else_from_end_to_end(copy: Path, finished: Path) -> None:
    """A whole run with keys of the forger's own fails only where the roster comes from outside."""
    log = AuditLog(
        copy / "forged.db", origin=coordinator_log("x"),
        signer=local_signer(copy / "forger", COORDINATOR, SeededEntropy(666)),
    )
    log.append("run_begun", run_id="x", plan_digest="0" * 64, version="0.1.0")
    (copy / "audit-log.jsonl").write_bytes(log.export().to_bytes())
    error = failing(copy, finished / "roster.json")
    assert (error.code, error.step.number) == ("SIGNATURE_INVALID", 10)


def test_revoked_coordinator(finished: Path, tmp_path: Path) -> None:
    book = KeyBook.from_bytes((finished / "roster.json").read_bytes())
    revoked = tmp_path / "roster.json"
    revoked.write_bytes(KeyBook(keys=book.keys, revoked=(COORDINATOR,)).to_bytes())
    error = failing(finished, revoked)
    assert (error.code, error.step.number) == ("SIGNER_REVOKED", 3)


def own_log(folder: Path) -> AuditLog:
    """The coordinator's log in the hands of the coordinator."""
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    signer = local_signer(folder, COORDINATOR, SeededEntropy(0))
    return AuditLog(folder / "audit.db", origin=coordinator_log(run_id), signer=signer)


def test_log_rolled_back_by_the_coordinator_itself(copy: Path) -> None:
    """Signed by the right key, but ending before the attestation was made."""
    whole, shorter = own_log(copy), AuditLog(
        copy / "shorter.db", origin=own_log(copy).origin,
        signer=local_signer(copy, COORDINATOR, SeededEntropy(0)),
        clock=lambda: float(own_log(copy).records[0].at),
    )
    for record in whole.records[:4]:
        shorter.append(record.kind, **record.fields)
    (copy / "audit-log.jsonl").write_bytes(shorter.export().to_bytes())
    error = failing(copy)
    assert (error.code, error.step.number) == ("AUDIT_ROLLBACK", 11)


def test_log_rewritten_by_the_coordinator_itself(copy: Path) -> None:
    """The coordinator signs another history of the same length; attestation and sites disagree."""
    whole = own_log(copy)
    other = AuditLog(copy / "other.db", origin=whole.origin,
                     signer=local_signer(copy, COORDINATOR, SeededEntropy(0)))
    for record in whole.records:
        fields = dict(record.fields)
        if record.kind == "round_accepted":
            fields["sites"] = ["site-0", "site-1"]
        other.append(record.kind, **fields)
    (copy / "audit-log.jsonl").write_bytes(other.export().to_bytes())
    error = failing(copy)
    assert (error.code, error.step.number) == ("AUDIT_SPLIT_VIEW", 11)


def test_witnesses_left_out(copy: Path) -> None:
    lines = (copy / "audit-log.jsonl").read_bytes().split(b"\n")
    header = json.loads(lines[0])
    header["cosignatures"] = []
    lines[0] = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    (copy / "audit-log.jsonl").write_bytes(b"\n".join(lines))
    error = failing(copy)
    assert (error.code, error.step.number) == ("WITNESS_MISSING", 12)


def test_the_log_tells_the_run_and_no_record(finished: Path, question_file: Path) -> None:
    log = own_log(finished)
    kinds = [record.kind for record in log.records]
    assert kinds == ["run_begun", "sites_agreed", "support_chosen", "round_accepted",
                     "round_accepted", "adapter_written", "run_ended", "measured", "published"]
    site = AuditLog(
        finished / "sites" / "site-1" / "audit.db", origin="site/site-1",
        signer=local_signer(finished / "sites" / "site-1", "site-1", SeededEntropy(0)),
    )
    assert [record.kind for record in site.records] == [
        "plan_accepted", *("release_charged", "release_answered") * 3, "run_finished",
    ]
    rows = [json.loads(line) for line in question_file.read_text().splitlines()]
    texts = [row[key] for row in rows for key in ("prompt", "answer") if len(row[key]) > 8]
    for name in ("audit-log.jsonl", "attestation.json", "roster.json"):
        data = (finished / name).read_text()
        assert not [text for text in texts if text in data]
    assert not [t for t in texts if t in site.export().to_bytes().decode()]


def test_a_site_stops_answering_after_a_split_view(
    finished: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site is asked again with a log that does not continue what it saw in its run."""
    from medunlearn_client.hospital import open_hospital
    from medunlearn_common.audit.carrying import with_head
    from medunlearn_common.messages import FINISH, Message
    from medunlearn_common.plan import RuntimeOptions

    whole = own_log(copy)
    hospital = open_hospital(copy / "sites" / "site-1", RuntimeOptions(device="cpu"))
    request = Message(kind=FINISH, fields={
        "run_id": whole.origin.partition("/")[2], "adapter_digest": "0" * 64,
    })
    twin = AuditLog(copy / "twin.db", origin=whole.origin,
                    signer=local_signer(copy, COORDINATOR, SeededEntropy(0)))
    asked: list[tuple[Callable[[], Message], str | None]] = [
        (lambda: request, "CHECKPOINT_MISSING"),
    ]
    for build, code in asked:
        assert hospital.handle(build()).fields.get("code") == code
    for record in whole.records[:6]:
        twin.append(record.kind, **{**record.fields, **(
            {"attempts": 2} if record.kind == "round_accepted" else {}
        )})
    answer = hospital.handle(with_head(request, twin.head, twin.leaves))
    assert answer.fields["code"] == "AUDIT_ROLLBACK"
    for number in range(4):
        twin.append("run_resumed", run_id="x", next_round=number)
    answer = hospital.handle(with_head(request, twin.head, twin.leaves))
    assert answer.fields["code"] == "AUDIT_SPLIT_VIEW"
    answer = hospital.handle(with_head(request, whole.head, whole.leaves))
    assert "audit_cosignature" in answer.fields
