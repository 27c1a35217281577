"""A finished run verifies, and each tampered copy of it is refused by the right step and file."""

from __future__ import annotations

import hashlib
import json
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medunlearn_common.attestation.dsse import sealed
from medunlearn_common.attestation.files import Evidence
from medunlearn_common.attestation.verification import StepFailed, Verification
from medunlearn_common.audit import AuditLog, LogExport, SignedCheckpoint, cosigned_checkpoint
from medunlearn_common.audit.checkpoints import signed_checkpoint
from medunlearn_common.audit.signing import coordinator_log
from medunlearn_common.cli import CommandLine
from medunlearn_common.digests import canonical_json
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.envelope import parse_signed, sign_bytes
from medunlearn_common.errors import Misconfigured
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.roster import Root, Roster
from medunlearn_common.roster.document import ROSTER_TYPE
from medunlearn_common.trust_folder import TRUST_FOLDER, open_identity
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
[gates]
min_preservation = 0.0
[federation]
sites = 3
min_sites = 3
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


def root_of(run: Path) -> Path:
    """The root keys, as the consortium would hand them to an auditor."""
    return run / TRUST_FOLDER / "root.cbor"


def changed_roster(run: Path, **changes: Any) -> Roster:
    document = parse_signed((run / "roster.dsse").read_bytes(), max_bytes=1 << 20)
    return replace(Roster.from_bytes(document.payload), **changes)


def signed_by_root(roster: Roster, *, keys: int = 2) -> bytes:
    """By the root of the simulation, whose keys follow from the plan's seed."""
    root = [SigningIdentity.generate(f"root-{i}", SeededEntropy(0)) for i in range(keys)]
    return sign_bytes(roster.to_bytes(), ROSTER_TYPE, *root).to_bytes()


def anothers_roster(roster: Roster) -> bytes:
    """The same parties under a root of the forger's own."""
    forger = SigningIdentity.generate("forger", SeededEntropy(666))
    own = replace(roster, root=Root(threshold=1, keys=(forger.public_key,)))
    return sign_bytes(own.to_bytes(), ROSTER_TYPE, forger).to_bytes()


def steps(folder: Path, keys: Path | None = None, root: Path | None = None) -> Verification:
    verification = Verification(evidence=Evidence.at(folder), keys=keys, root=root)
    for _ in verification.steps():
        pass
    return verification


def failing(folder: Path, keys: Path | None = None, root: Path | None = None) -> StepFailed:
    with pytest.raises(StepFailed) as caught:
        steps(folder, keys, root)
    return caught.value


def test_a_finished_run_verifies(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("verify", finished, "--root", root_of(finished)) == 0
    shown = capsys.readouterr().out
    assert "trusted: the root keys given with --root" in shown
    assert "Kind: a simulated run." in shown and "a simulation makes its own" in shown
    assert [f"{n:2d}. " in shown for n in range(1, 13)] == [True] * 12
    assert "Verified.\n" in shown and "not a proof of erasure" in shown
    assert "3 sites signed the log after its last round" in shown
    assert command("verify", finished, "--keys", finished / "roster.dsse") == 0
    assert "trusted: that file" in capsys.readouterr().out
    assert command("verify", finished) == 0
    shown = capsys.readouterr().out
    assert "Who signed" in shown and "trusted: nothing" in shown


def test_an_adapter_alone_verifies_as_far_as_it_can(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = Path(shutil.copytree(finished / "adapter", tmp_path / "adapter"))
    assert command("verify", adapter, "--root", root_of(finished),
                   "--keys", finished / "roster.dsse") == 0
    shown = capsys.readouterr().out
    assert "as far as an adapter alone allows" in shown
    assert shown.count("not checked") == 5
    with pytest.raises(Misconfigured, match="VERIFY_KEYS"):
        steps(adapter)
    assert command("verify", tmp_path) == 2


def test_attested_gates_counts_and_epsilon_over_runs(finished: Path) -> None:
    predicate = steps(finished).statement.predicate
    assert {gate.gate for gate in predicate.gates} == {"norm", "canary"}
    assert all(gate.passed for gate in predicate.gates)
    counts = predicate.federated
    assert counts.sites == ("site-0", "site-1", "site-2") and counts.failure is None
    assert set(counts.cells) == {
        f"{group}_{cell}" for group in ("forget", "retain")
        for cell in ("kept", "lost", "gained", "never")
    }
    cell = counts.cells["forget_kept"]
    assert cell.interval == "noise" and cell.low is not None and cell.low < cell.value
    ledgers = [PrivacyLedger.existing(finished / "sites" / f"site-{number}" / "ledger.db")
               for number in range(3)]
    spent = [ledger.cumulative_epsilon(unit="record", delta=1e-5) for ledger in ledgers]
    assert predicate.privacy.delta == 1e-5
    assert predicate.privacy.cumulative_epsilon == max(spent) > 0.0


ARTEFACTS = (
    ("adapter/adapter_model.safetensors", {5}),
    ("adapter/adapter_config.json", {5}),
    ("adapter/medunlearn.json", {5}),
    ("adapter/attestation.json", {2}),
    ("attestation.json", {2}),
    ("run-plan.json", {6}),
    ("result.json", {7}),
    ("report.html", {11}),
    ("roster.dsse", {1, 3, 8}),
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
        if numbers <= {5, 6, 7} or name == "report.html":
            assert error.step.file == name
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
    assert (error.code, error.step.number, error.step.file) == ("FILE_MISSING", number, name)


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
        copy / "forged.db", origin=coordinator_log("x", key_id="0" * 64),
        signer=SigningIdentity.generate("coordinator", SeededEntropy(666)),
    )
    log.append("run_begun", run_id="x", plan_digest="0" * 64, version="0.1.0")
    (copy / "audit-log.jsonl").write_bytes(log.export().to_bytes())
    error = failing(copy, finished / "roster.dsse")
    assert (error.code, error.step.number) == ("SIGNATURE_INVALID", 10)


def test_revoked_coordinator(finished: Path, tmp_path: Path) -> None:
    later = changed_roster(finished, version=2, revoked=(open_identity(finished).key_id,))
    revoked = tmp_path / "roster.dsse"
    revoked.write_bytes(signed_by_root(later))
    error = failing(finished, revoked, root_of(finished))
    assert (error.code, error.step.number) == ("KEY_REVOKED", 3)


def test_roster_of_a_later_version_still_verifies(finished: Path, tmp_path: Path) -> None:
    later = tmp_path / "roster.dsse"
    later.write_bytes(signed_by_root(changed_roster(finished, version=2)))
    steps(finished, later, root_of(finished))


# -- the roster in the run's folder -----------------------------------------------------------


def test_tampered_roster_in_the_run_folder(copy: Path, finished: Path) -> None:
    """Signed by too few of the root's keys, or by another root: step and file are named."""
    file, root = copy / "roster.dsse", root_of(finished)
    swapped = changed_roster(finished, revoked=(open_identity(finished / "sites/site-1").key_id,))
    for forged, codes in (
        (signed_by_root(swapped, keys=1), ("ROSTER_SIGNATURES", "ROSTER_SIGNATURES")),
        (signed_by_root(swapped), ("FILE_CHANGED", "FILE_CHANGED")),
        (anothers_roster(swapped), ("ROSTER_SIGNATURES", "ROSTER_SIGNATURES")),
    ):
        file.write_bytes(forged)
        for trusted, code in zip((root, None), codes, strict=True):
            error = failing(copy, finished / "roster.dsse", trusted)
            assert (error.code, error.step.number) == (code, 8)
            assert "roster.dsse" in str(error)
        error = failing(copy, root=root)
        assert (error.code, error.step.file) == (codes[0], "roster.dsse")


def test_roster_made_by_the_forger_does_not_pass_under_the_root(
    copy: Path, finished: Path
) -> None:
    (copy / "roster.dsse").write_bytes(anothers_roster(changed_roster(finished)))
    error = failing(copy, root=root_of(finished))
    assert (error.code, error.step.number) == ("ROSTER_SIGNATURES", 1)
    with pytest.raises(Misconfigured, match="VERIFY_KEYS"):
        steps(copy, root=copy / "no-such-root")


# -- the coordinator's key --------------------------------------------------------------------


def test_log_witnessed_under_another_coordinator_key(copy: Path) -> None:
    """The sites saw the log under a rival's key; the coordinator puts its own name on it."""
    whole, signer = own_log(copy), open_identity(copy)
    rival = SigningIdentity.generate("rival", SeededEntropy(5))
    run_id = whole.origin.split("/")[1]
    origin = coordinator_log(run_id, key_id=rival.key_id)
    witnessed = AuditLog(copy / "rival.db", origin=origin, signer=rival)
    for record in whole.records:
        witnessed.append(record.kind, **record.fields)
    sites = [open_identity(copy / "sites" / f"site-{number}") for number in range(3)]
    seen = [cosigned_checkpoint(witnessed.head.checkpoint, site) for site in sites]
    file = copy / "audit-log.jsonl"
    good = file.read_bytes()

    # As the rival's: it signed neither the attestation nor is it the run's coordinator.
    file.write_bytes(replace(witnessed.export(), cosignatures=tuple(seen)).to_bytes())
    error = failing(copy)
    assert (error.code, error.step.number) == ("CHECKPOINT_SIGNER", 10)
    # As the coordinator's own, with what the sites signed for the rival.
    file.write_bytes(replace(LogExport.from_bytes(good), cosignatures=tuple(seen)).to_bytes())
    error = failing(copy)
    assert (error.code, error.step.number) == ("AUDIT_SPLIT_VIEW", 12)
    # As the rival's log with the coordinator's signature on its head.
    head = signed_checkpoint(witnessed.head.checkpoint, signer)
    file.write_bytes(
        replace(witnessed.export(), head=head, cosignatures=tuple(seen)).to_bytes()
    )
    error = failing(copy)
    assert (error.code, error.step.number) == ("AUDIT_ROLLBACK", 11)


def test_attestation_made_from_a_log_under_another_key(copy: Path) -> None:
    """The coordinator attests with a checkpoint of a log that names another key."""
    signer, path = open_identity(copy), copy / "attestation.json"
    envelope = json.loads(path.read_text())
    document = json.loads(b64decode(envelope["payload"]))
    note = SignedCheckpoint.from_text(document["predicate"]["log"]["checkpoint"])
    origin = coordinator_log(note.checkpoint.origin.split("/")[1], key_id="0" * 64)
    other = signed_checkpoint(replace(note.checkpoint, origin=origin), signer)
    document["predicate"]["log"]["checkpoint"] = other.to_text()
    for place in (path, copy / "adapter" / "attestation.json"):
        place.write_bytes(sealed(canonical_json(document), signer))
    error = failing(copy)
    assert (error.code, error.step.number) == ("CHECKPOINT_ORIGIN", 9)


def own_log(folder: Path) -> AuditLog:
    """The coordinator's log in the hands of the coordinator."""
    run_id = json.loads((folder / "run.json").read_text())["run_id"]
    signer = open_identity(folder)
    origin = coordinator_log(run_id, key_id=signer.key_id)
    return AuditLog(folder / "audit.db", origin=origin, signer=signer)


def test_log_rolled_back_by_the_coordinator_itself(copy: Path) -> None:
    """Signed by the right key, but ending before the attestation was made."""
    whole, shorter = own_log(copy), AuditLog(
        copy / "shorter.db", origin=own_log(copy).origin,
        signer=open_identity(copy),
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
                     signer=open_identity(copy))
    for record in whole.records:
        fields = dict(record.fields)
        if record.kind == "round_accepted":
            fields["sites"] = ["site-0", "site-1"]
        other.append(record.kind, **fields)
    (copy / "audit-log.jsonl").write_bytes(other.export().to_bytes())
    error = failing(copy)
    assert (error.code, error.step.number) == ("AUDIT_SPLIT_VIEW", 11)


def attested_anew(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """The coordinator signs another attestation of its own run, and says so in its own log."""
    signer, path, log = open_identity(run), run / "attestation.json", own_log(run)
    document = json.loads(b64decode(json.loads(path.read_text())["payload"]))
    change(document["predicate"])
    for place in (path, run / "adapter" / "attestation.json"):
        place.write_bytes(sealed(canonical_json(document), signer))
    report = next(r.fields["report_digest"] for r in log.records if r.kind == "published")
    log.append("published", report_digest=report,
               attestation_digest=hashlib.sha256(path.read_bytes()).hexdigest())
    (run / "audit-log.jsonl").write_bytes(log.export().to_bytes())


@pytest.mark.parametrize(("part", "key", "value"), [
    ("privacy", "adjacency", "add or remove one patient"), ("privacy", "noise", "distributed"),
    ("privacy", "delta", 1e-9), ("privacy", "clip_l2", 1.0), ("privacy", "epsilon_budget", 1.0),
    ("privacy", "epsilon", None), ("privacy", "epsilon", 41.0), ("privacy", "epsilon", 20.0),
    ("privacy", "sigma", 9.0), ("privacy", "sigma", 0.1), ("privacy", "sigma", 1e-300),
    ("privacy", "sigma", 1e300), ("privacy", "sigma", -1.0), ("privacy", "vote_sigma", 9.0),
    ("process", "objective", "npo"), ("process", "support", "random"),
    ("process", "rounds_planned", 3),
])
def test_what_is_attested_of_the_plan_is_not_what_the_plan_says(
    copy: Path, part: str, key: str, value: object
) -> None:
    attested_anew(copy, lambda predicate: predicate[part].update({key: value}))
    error = failing(copy)
    assert (error.code, error.step.number) == ("PLAN_DISAGREES", 6)


@pytest.mark.parametrize("change", ["left out", "another limit", "failed"])
def test_a_gate_of_the_plan_is_attested_away(copy: Path, change: str) -> None:
    def gates(predicate: dict[str, Any]) -> None:
        canary = next(gate for gate in predicate["gates"] if gate["gate"] == "canary")
        if change == "left out":
            predicate["gates"].remove(canary)
        else:
            canary.update({"limit": 99.0} if change == "another limit" else {"passed": False})

    attested_anew(copy, gates)
    error = failing(copy)
    assert (error.code, error.step.number) == ("PLAN_DISAGREES", 6)


@pytest.mark.parametrize("kind", ["gate_failed", "gate_overridden", "run_stopped"])
def test_a_failed_or_overridden_gate_in_the_log_is_not_attested(copy: Path, kind: str) -> None:
    log = own_log(copy)
    fields: dict[str, dict[str, Any]] = {
        "gate_failed": {"gate": "canary", "figure": 2.0, "limit": 0.5},
        "gate_overridden": {"gate": "canary", "by": "Ada Lovelace", "reason_digest": "0" * 64},
        "run_stopped": {"code": "GATE_CANARY"},
    }
    log.append(kind, **fields[kind])
    record = next(r for r in log.records if r.kind == "measured")

    def later(predicate: dict[str, Any]) -> None:
        predicate["log"] = {
            "index": record.index, "record": record.to_bytes().decode("ascii"),
            "proof": [one.hex() for one in log.prove(record.index)],
            "checkpoint": log.head.to_text(),
        }

    attested_anew(copy, later)
    error = failing(copy)
    assert (error.code, error.step.number) == ("LOG_DISAGREES", 11)


def test_a_round_told_twice_with_other_survivors(copy: Path) -> None:
    """The sites signed the first telling; the attestation goes by the one appended since."""
    log = own_log(copy)
    told = next(r.fields for r in log.records if r.kind == "round_accepted")
    other = {**told, "sites": ["site-0", "site-1"], "sum_digest": "0" * 64}
    log.append("round_accepted", **other)

    def rounds(predicate: dict[str, Any]) -> None:
        predicate["rounds"][told["round"]].update(
            {"survivors": other["sites"], "sum_digest": other["sum_digest"]})
        predicate["sites"]["site-2"]["rounds_joined"] -= 1

    attested_anew(copy, rounds)
    error = failing(copy)
    assert (error.code, error.step.number) == ("LOG_DISAGREES", 11)


def test_a_site_is_attested_out_of_the_sums_that_it_is_in(copy: Path) -> None:
    """So that its missing signature on the log would not be missed."""
    attested_anew(copy, lambda predicate: predicate["sites"]["site-1"].update(
        {"rounds_joined": 0, "cosignature": None}))
    error = failing(copy)
    assert (error.code, error.step.number) == ("LOG_DISAGREES", 11)


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
        signer=open_identity(finished / "sites" / "site-1"),
    )
    assert [record.kind for record in site.records] == [
        "plan_accepted", *("release_charged", "release_answered") * 4, "run_finished",
    ]
    rows = [json.loads(line) for line in question_file.read_text().splitlines()]
    texts = [row[key] for row in rows for key in ("prompt", "answer") if len(row[key]) > 8]
    for name in ("audit-log.jsonl", "attestation.json"):
        data = (finished / name).read_text()
        assert not [text for text in texts if text in data]
    assert not [t for t in texts if t in site.export().to_bytes().decode()]


def test_a_site_stops_answering_after_a_split_view(
    finished: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site is asked again with a log that does not continue what it saw in its run."""
    from medunlearn_client.hospital import open_hospital
    from medunlearn_client.site_audit import Asked, SiteAudit
    from medunlearn_client.witnessing import WitnessingHospital
    from medunlearn_common.audit.carrying import with_head
    from medunlearn_common.errors import Rejected
    from medunlearn_common.messages import FINISH, Message
    from medunlearn_common.plan import RuntimeOptions

    whole = own_log(copy)
    folder = copy / "sites" / "site-1"
    witness = WitnessingHospital(
        open_hospital(folder, RuntimeOptions(device="cpu")),
        SiteAudit(folder, site_id="site-1", entropy=SeededEntropy(1)),
    )

    asked = Asked(sender="coordinator", repeated=False)

    def refusal_of(message: Message, asked: Asked = asked) -> str:
        with pytest.raises(Rejected) as refused:
            witness.handle(message, asked)
        return refused.value.code

    request = Message(kind=FINISH, fields={
        "run_id": whole.origin.split("/")[1], "adapter_digest": "0" * 64,
    })
    twin = AuditLog(copy / "twin.db", origin=whole.origin,
                    signer=open_identity(copy))
    assert refusal_of(request) == "CHECKPOINT_MISSING"
    by_site = AuditLog(copy / "site.db", origin=whole.origin,
                       signer=open_identity(copy / "sites" / "site-2"))
    rival = SigningIdentity.generate("coordinator", SeededEntropy(5))
    by_rival = AuditLog(copy / "rival.db", signer=rival, origin=whole.origin)
    unkeyed = AuditLog(copy / "unkeyed.db", signer=open_identity(copy),
                       origin=coordinator_log(whole.origin.split("/")[1], key_id=rival.key_id))
    for log, refusal in ((by_site, "CHECKPOINT_SIGNER"), (by_rival, "SIGNATURE_INVALID"),
                         (unkeyed, "CHECKPOINT_ORIGIN")):
        for record in whole.records:
            log.append(record.kind, **record.fields)
        assert refusal_of(with_head(request, log.head, log.leaves)) == refusal
    for record in whole.records[:6]:
        twin.append(record.kind, **{**record.fields, **(
            {"attempts": 2} if record.kind == "round_accepted" else {}
        )})
    assert refusal_of(with_head(request, twin.head, twin.leaves)) == "AUDIT_ROLLBACK"
    for number in range(4):
        twin.append("run_resumed", run_id="x", next_round=number)
    assert refusal_of(with_head(request, twin.head, twin.leaves)) == "AUDIT_SPLIT_VIEW"
    # The log of one coordinator under a request of another, and an old head with a new request.
    latest = with_head(request, whole.head, whole.leaves)
    assert refusal_of(latest, Asked(sender="rival", repeated=False)) == "CHECKPOINT_SIGNER"
    older = with_head(request, whole.head_at(1), whole.leaves[:1])
    assert refusal_of(older) == "AUDIT_ROLLBACK"
    for message, repeated in ((latest, False), (latest, True), (older, True)):
        answer = witness.handle(message, Asked(sender="coordinator", repeated=repeated))
        assert "audit_cosignature" in answer.fields
