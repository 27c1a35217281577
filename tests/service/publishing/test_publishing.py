"""A finished run reaches every hospital, is decided on, and what they decided reaches all."""

from __future__ import annotations

from contextlib import closing

from open_files import all_closed_again
from publishing_lab import SITES, PublishingLab

from medunlearn_client.adoption.service import AdoptionChoice, adopt, in_service, rollback


def test_a_run_is_published_countersigned_adopted_and_rolled_back(lab: PublishingLab) -> None:
    first = lab.publish()
    assert first.verdicts == dict.fromkeys(SITES, "RECEIVED") and first.number == 1
    lab.decide(0, "countersigned")
    second = lab.publish()
    assert second.decisions == {"site-0": "countersigned"}
    assert (lab.place("second").statements / "site-0.dsse").is_file()
    checked = lab.site(2).checked("second")
    assert checked.countersigned() == {"site-0": "Ann Lee"} and checked.objections() == {}
    adoption = adopt(lab.site(1), "second", AdoptionChoice(by="Ann Lee"))
    current = lab.site(1).places.current
    assert (current / "adapter" / "adapter_model.safetensors").is_file()
    assert in_service(lab.site(1)) == adoption
    assert rollback(lab.site(1), by="Ann Lee") is None and not current.exists()
    kinds = [record.kind for record in lab.site(1).audit.log.records]
    assert kinds[-2:] == ["adapter_adopted", "adapter_rolled_back"]


def test_looking_into_the_inbox_leaves_no_file_open(received: PublishingLab) -> None:
    received.close()  # a command has no service in its process
    with all_closed_again(received.base):
        for _ in range(3):
            received.site(0).checked("first")


def test_what_a_killed_worker_had_half_received_goes_at_the_next_start(
    received: PublishingLab
) -> None:
    """Its name has the pid of a process that never comes back, and nobody else removes it."""
    inbox = received.inbox(0).parent
    partial, kept = inbox / ".second.4711.tmp", sorted(path.name for path in inbox.iterdir())
    partial.mkdir()
    (partial / "archive").write_bytes(b"half")
    received.close()
    with closing(PublishingLab(received.base)):
        assert sorted(path.name for path in inbox.iterdir()) == kept
