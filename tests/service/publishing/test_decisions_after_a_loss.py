"""A hospital's word on an adapter outlives a kill, a lost folder, an older copy and its key."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest
from publishing_lab import PublishingLab
from test_former_members import in_force, key_of, trusted, with_new_keys

from medunlearn_client.adoption import deciding
from medunlearn_client.adoption.overview import overview
from medunlearn_common.audit import AuditLog, hand_over
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Transient
from medunlearn_common.identity import SigningIdentity, write_identity
from medunlearn_common.trust_folder import KEY_FILE, PASSPHRASE_FILE, TRUST_FOLDER


def inbox(lab: PublishingLab) -> str:
    return "\n".join(overview(lab.site(0), "second"))


def objections(lab: PublishingLab) -> dict[str, str]:
    """As another hospital sees them."""
    return lab.site(2).checked("second").objections()


def test_the_folder_of_decisions_is_lost(received: PublishingLab) -> None:
    received.decide(0, "objected")
    received.decide(0, "countersigned")
    received.publish()
    shutil.rmtree(received.site(0).folder / "decisions")
    assert received.decide(0, "objected").number == 3
    received.publish()
    assert objections(received) == {"site-0": "Ann Lee"}


def test_log_and_folder_are_lost_and_the_coordinator_still_knows_the_number(
    received: PublishingLab
) -> None:
    folder = received.site(0).folder
    kept = (folder / "audit.db").read_bytes()
    received.decide(0, "objected")
    received.decide(0, "countersigned")
    received.publish()
    received.hospitals["site-0"].close()
    (folder / "audit.db").write_bytes(kept)
    shutil.rmtree(folder / "decisions")
    assert received.decide(0, "objected").number == 3


def test_a_number_that_was_used_before_is_told(received: PublishingLab) -> None:
    """The inbox was of an older copy too, and nothing here knew of the later decisions."""
    site = received.site(0)
    kept, early = (site.folder / "audit.db").read_bytes(), received.base / "early"
    shutil.copytree(received.inbox(0), early)
    received.decide(0, "objected")
    received.decide(0, "countersigned")
    received.publish()
    newest = received.base / "newest"
    received.inbox(0).rename(newest)
    early.rename(received.inbox(0))
    shutil.rmtree(site.folder / "decisions")
    (site.folder / "audit.db").write_bytes(kept)
    assert received.decide(0, "objected").number == 1
    shutil.rmtree(received.inbox(0))
    newest.rename(received.inbox(0))  # the coordinator publishes again
    assert "THAT DOES NOT COUNT" in inbox(received)
    assert received.decide(0, "objected").number == 3
    assert "not in the coordinator's log yet" in inbox(received)
    assert "THAT DOES NOT COUNT" not in inbox(received)


def test_killed_before_the_decision_is_in_the_log(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    received.decide(0, "objected")
    with monkeypatch.context() as patch:
        def killed(*args: object, **fields: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(AuditLog, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            received.decide(0, "countersigned")
    assert received.publish().decisions == {"site-0": "objected"}
    assert "OBJECTED by site-0" in inbox(received)
    assert "decision 2 of this hospital was begun" in inbox(received)
    assert received.decide(0, "countersigned").number == 3
    assert received.publish().decisions == {"site-0": "countersigned"}
    assert "was begun" not in inbox(received)


def test_killed_after_the_decision_is_in_the_log(
    received: PublishingLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **fields: object) -> None:
        raise KeyboardInterrupt

    received.decide(0, "objected")
    with monkeypatch.context() as patch:
        patch.setattr(deciding, "decision_of", killed)
        with pytest.raises(KeyboardInterrupt):
            received.decide(0, "countersigned")
    assert received.publish().decisions == {"site-0": "countersigned"}


def test_two_decisions_at_once(received: PublishingLab) -> None:
    with received.site(0).places.exclusive(), pytest.raises(Transient, match="ADOPTION_BUSY"):
        received.decide(0, "objected")


def test_a_new_key_takes_no_decision_back(received: PublishingLab) -> None:
    """The old key's signature is dropped by all; it is collected anew under the new one."""
    received.decide(0, "objected")
    received.decide(0, "countersigned")
    received.publish()
    old, site = key_of(received, "site-0"), received.site(0).folder
    in_force(received, with_new_keys(trusted(received).current, {"site-0": old}, 50))
    received.close()
    new = SigningIdentity.generate("site-0", SeededEntropy(50))
    (site / TRUST_FOLDER / KEY_FILE).unlink()
    write_identity(site / TRUST_FOLDER / KEY_FILE, new,
                   passphrase=(site / TRUST_FOLDER / PASSPHRASE_FILE).read_bytes())
    hand_over(site / "audit.db", old_key=old.public_key, signer=new)
    with closing(PublishingLab(received.base)) as lab:
        assert lab.publish().decisions == {"site-0": "countersigned"}
        checked = lab.site(2).checked("second")
        assert checked.countersigned() == {"site-0": "Ann Lee"} and objections(lab) == {}
