"""What a hospital's doctor says of models, records and keys; and that it shows no record."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from joining_lab import HOME

from medunlearn_client.erasure import Claim, Match, NewRequest, Registry
from medunlearn_client.joining.checks import hospital_checks
from medunlearn_client.joining.rotation import make_next_keys
from medunlearn_client.joining.site_folder import Joining, make_site_folder
from medunlearn_common.doctor import Finding, run_checks
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.invitation import open_invitation
from medunlearn_common.model_files import model_digest, tokenizer_digest
from medunlearn_common.plan.sections import DataSection

NOW = time.time()
SECRET = "Erika Mustermann of Musterstadt"


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
    findings = found(place, "files", "trust", "policy", "model", "memory", "data")
    assert not [f for f in findings if f.level == "problem"], findings
    assert {"MODEL_DIGEST", "TOKENIZER_DIGEST", "NODE_KEY", "FINGERPRINT", "DATA"} <= \
        set(codes(findings))
    assert "8 records" in " ".join(f.message for f in findings)
    assert "Muster" not in repr(findings)


def test_another_model_than_the_federations_is_told(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records, model_digest="0" * 64)
    assert codes(found(place, "model")) == ["MODEL_DIFFERS", "TOKENIZER_DIGEST"]


def test_unreadable_records_are_told_without_their_text(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    records.write_text(f'{{"question": "{SECRET}\n' * 5)
    findings = found(folder(tmp_path, tiny_model_folder, records), "data")
    assert findings[0].level == "problem" and "Muster" not in repr(findings)


def test_what_is_not_set_yet_is_told(tmp_path: Path) -> None:
    place = folder(tmp_path, Path(""), None)
    text = (place / "site.toml").read_text()
    (place / "site.toml").write_text(text.replace('model_folder = "."', 'model_folder = ""'))
    assert codes(found(place, "model", "data", "roster"))[:2] == ["MODEL_UNSET", "DATA_UNSET"]
    assert "ROSTER_WITHOUT_US" in codes(found(place, "roster"))


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


def test_the_requests_of_a_registry_are_told_by_number(
    tmp_path: Path, tiny_model_folder: Path, records: Path
) -> None:
    place = folder(tmp_path, tiny_model_folder, records)
    site = place / "site.toml"
    assert not found(place, "erasure")
    site.write_text(site.read_text().replace('registry = ""', 'registry = "erasure.sqlite"'))
    assert "FORGET_EMPTY" not in codes(found(place, "data"))
    assert codes(found(place, "erasure")) == ["ERASURE_REGISTRY_MISSING"]
    registry = Registry(place / "erasure.sqlite", create=True)
    assert codes(found(place, "erasure")) == ["ERASURE_NONE_VALIDATED"]

    def validated(record_id: str) -> None:
        match = Match(record_id=record_id, file_digest="d" * 64, reason="patient id", owned=True)
        number = registry.add(NewRequest(
            kind="patient", target=SECRET, matches=(match,), basis="b", received=registry.today,
            again=True), author="A. Officer").number
        registry.validate(number, author="A. Officer", identity="passport seen")

    validated("r3")
    validated(SECRET)
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
