"""What would bring a wrong adapter into service, or keep the right one out."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from publishing_lab import PublishingLab

from medunlearn_client.adoption import service, versions
from medunlearn_client.adoption.loading import open_adapter
from medunlearn_client.adoption.measuring import measure
from medunlearn_client.adoption.service import AdoptionChoice, adopt, in_service, rollback
from medunlearn_client.models import load_causal_lm
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected, Transient

ANN = AdoptionChoice(by="Ann Lee")


def adopted(lab: PublishingLab, run_id: str = "second", **choice: Any) -> service.Adoption:
    return adopt(lab.site(0), run_id, AdoptionChoice(by="Ann Lee", **choice))


def refusal(lab: PublishingLab, run_id: str = "second", **choice: Any) -> str:
    """The code of a refused adoption, which leaves everything as it was."""
    before = in_service(lab.site(0))
    with pytest.raises(MedunlearnError) as caught:
        adopted(lab, run_id, **choice)
    assert in_service(lab.site(0)) == before
    return caught.value.code


def last(lab: PublishingLab) -> dict[str, Any]:
    record = lab.site(0).audit.log.records[-1]
    return {"kind": record.kind, **record.fields}


def test_adapter_rollback_attack(received: PublishingLab) -> None:
    """An older adapter, soundly attested, is offered as if it were new."""
    newer = adopted(received)
    assert refusal(received, "first") == "ADAPTER_OLDER"
    older = adopted(received, "first", older=True)
    assert (older.previous, older.version) == (newer.version, 2)
    assert adopted(received).version == 3  # back to the newer one: no refusal


def test_versions_go_back_one_by_one_to_the_base_model(received: PublishingLab) -> None:
    site = received.site(0)
    first, second = adopted(received, "first"), adopted(received, "second")
    assert rollback(site, by="Ann Lee") == first
    assert last(received)["left"] == second.attestation_digest
    assert rollback(site, by="Ann Lee") is None
    assert in_service(site) is None and not site.places.current.exists()
    with pytest.raises(Misconfigured, match="ROLLBACK_NOTHING"):
        rollback(site, by="Ann Lee")
    assert site.places.version(2).is_dir()  # nothing that was in service is thrown away
    assert adopted(received).version == 5  # numbers never come again


def test_objections_stop_an_adoption_unless_a_person_overrules_them(
    received: PublishingLab
) -> None:
    received.decide(2, "objected")
    received.publish()
    assert refusal(received) == "ADAPTER_OBJECTED"
    adoption = adopted(received, despite=True)
    assert adoption.despite == ("site-2",)
    assert last(received)["despite"] == ["site-2"] and last(received)["by"] == "Ann Lee"


def test_ones_own_objection_counts_before_it_is_collected(received: PublishingLab) -> None:
    received.decide(0, "objected")
    assert refusal(received) == "ADAPTER_OBJECTED"
    received.decide(0, "countersigned")
    adopted(received)


def test_bytes_changed_in_the_inbox(received: PublishingLab) -> None:
    inbox = received.inbox(0)
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json",
                 "adapter/medunlearn.json", "attestation.json", "result.json",
                 "audit-log.jsonl"):
        data = (inbox / name).read_bytes()
        (inbox / name).write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        assert refusal(received)
        (inbox / name).write_bytes(data)
    (inbox / "adapter" / "adapter_model.bin").write_bytes(b"x")
    assert refusal(received) == "FILE_ADDED"


def test_bytes_changed_between_check_and_copy(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(source: Path, target: Path) -> None:
        data = bytearray(source.read_bytes())
        data[-1] ^= 1
        target.write_bytes(bytes(data))

    monkeypatch.setattr(versions.shutil, "copyfile", copy)
    assert refusal(received) == "FILE_CHANGED"
    assert not received.site(0).places.version(1).exists()


def test_another_base_model_at_the_hospital(received: PublishingLab, tmp_path: Path) -> None:
    site = json.loads((received.site(0).folder / "site.json").read_text())
    other = Path(shutil.copytree(site["model_folder"], tmp_path / "model"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    path = received.site(0).folder / "site.json"
    path.write_text(json.dumps({**site, "model_folder": str(other)}))
    assert refusal(received) == "MODEL_MISMATCH"
    shutil.copyfile(Path(site["model_folder"]) / "config.json", other / "config.json")
    (other / "tokenizer_config.json").write_text("{}")
    assert refusal(received) == "TOKENIZER_MISMATCH"


def test_the_link_is_turned_by_somebody_else(received: PublishingLab) -> None:
    adopted(received, "first")
    newer = adopted(received, "second")
    link = received.site(0).places.current
    for target in ("versions/0001", "/etc", "../inbox/first"):
        link.unlink()
        link.symlink_to(target)
        assert in_service(received.site(0)) == newer
        assert link.resolve() == received.site(0).places.version(2).resolve()


def test_a_version_changed_on_the_disk_does_not_come_back(received: PublishingLab) -> None:
    adopted(received, "first")
    adopted(received, "second")
    weights = received.site(0).places.version(1) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(Rejected, match="ADOPTION_DAMAGED"):
        rollback(received.site(0), by="Ann Lee")
    assert in_service(received.site(0)) is not None
    shutil.rmtree(received.site(0).places.version(2))
    with pytest.raises(Rejected, match="ADOPTION_DAMAGED"):
        in_service(received.site(0))


def test_killed_between_the_record_and_the_link(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopted(received, "first")

    def killed(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(service, "switch_to", killed)
        with pytest.raises(KeyboardInterrupt):
            adopted(received, "second")
    assert received.site(0).places.current.resolve().name == "0001"
    found = in_service(received.site(0))
    assert found is not None and found.run_id == "second"
    assert received.site(0).places.current.resolve().name == "0002"


@pytest.mark.parametrize("what", ["copyfile", "write_atomically"])
def test_a_disk_that_fills_leaves_what_was_in_service(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    adopted(received, "first")

    def full(*args: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(versions.shutil if what == "copyfile" else versions, what, full)
        assert refusal(received) == "WRITE_FAILED"
    assert [p.name for p in received.site(0).places.version(1).parent.iterdir()] == ["0001"]
    adopted(received)


def test_two_commands_at_once(received: PublishingLab) -> None:
    with received.site(0).places.exclusive(), pytest.raises(Transient, match="ADOPTION_BUSY"):
        adopted(received)


def test_adopting_twice_and_what_is_not_there(received: PublishingLab) -> None:
    adopted(received)
    assert refusal(received) == "ALREADY_ADOPTED"
    assert refusal(received, "third") == "INBOX_UNKNOWN"
    assert refusal(received, "../second") == "RUN_ID_INVALID"
    with pytest.raises(Misconfigured, match="PERSON_INVALID"):
        adopt(received.site(0), "second", AdoptionChoice(by="0"))


def test_a_merged_model_answers_like_model_and_adapter(received: PublishingLab) -> None:
    adoption = adopted(received, merge=True)
    site = received.site(0)
    merged = load_causal_lm(
        str(site.places.current / "model"), dtype="float32", device=torch.device("cpu"))
    assert merged.model_digest == adoption.merged_digest == last(received)["merged_digest"]
    _, model = open_adapter(
        site.places.current / "adapter", model=site.config.model_folder,
        device=torch.device("cpu"))
    ids = torch.arange(2, 20).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(
            merged.model(input_ids=ids).logits, model(input_ids=ids).logits,
            rtol=1e-3, atol=1e-3)
    weights = next((site.places.version(1) / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(Rejected, match="ADOPTION_DAMAGED"):
        in_service(site)


def test_own_figures_are_measured_and_kept_private(received: PublishingLab) -> None:
    done: list[tuple[str, int]] = []
    found = [measure(received.site(number), "second", device="cpu", most=2,
                     progress=lambda name, count: done.append((name, count)))
             for number in range(3)]
    assert max(own.retain.n for own in found) == 2  # the deal is uneven; some hold nothing
    for number, own in enumerate(found):
        path = received.site(number).places.decisions("second") / "measured.json"
        assert path.stat().st_mode & 0o077 == 0
        assert json.loads(path.read_text())["retain"]["n"] == own.retain.n
        assert (own.retain.accuracy_before is not None) == (own.retain.n > 0)
    assert {name for name, _ in done} >= {"retain"}
    weights = received.inbox(0) / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(Rejected, match="FILE_CHANGED"):
        measure(received.site(0), "second", device="cpu")
