"""What a backup must not do to the adapter in service: lose it, or bring back one that was left."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from publishing_lab import PublishingLab

from medunlearn_client.adoption.overview import overview
from medunlearn_client.adoption.service import AdoptionChoice, adopt, in_service, rollback
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.keeping import make_backup, restore

ANN = AdoptionChoice(by="Ann Lee")


def home(lab: PublishingLab) -> Path:
    return lab.base / "sites" / "site-0"


def lose(lab: PublishingLab, *names: str) -> None:
    for name in names:
        path = home(lab) / name
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def backed_up(lab: PublishingLab) -> Path:
    archive = lab.base / "site.tar"
    make_backup(home(lab), archive)
    return archive


def test_a_lost_disk_does_not_take_the_adopted_adapter_out_of_service(
    received: PublishingLab
) -> None:
    before = adopt(received.site(0), "second", ANN)
    received.decide(0, "countersigned")
    archive, secret = backed_up(received), home(received) / "trust" / "passphrase"
    kept = secret.read_bytes()
    decided = {path.name for path in (home(received) / "decisions" / "second").iterdir()}
    shutil.rmtree(home(received))
    done = restore(archive, home(received), history_lost=True)
    secret.write_bytes(kept)
    secret.chmod(0o600)
    assert done.in_service == before.version == 1
    current = home(received) / "adopted" / "current"
    assert os.readlink(current) == "versions/0001" and (current / "adoption.json").is_file()
    assert in_service(received.site(0)) == before  # sound, file by file
    assert {p.name for p in (home(received) / "decisions" / "second").iterdir()} == decided


def test_after_a_restore_an_adapter_of_a_run_long_over_can_still_be_adopted(
    received: PublishingLab
) -> None:
    """Its layout is with the accepted plan, and is checked against at every adoption."""
    kept = {path.name for path in (home(received) / "plans").iterdir()}
    archive = backed_up(received)
    lose(received, "plans")
    restore(archive, home(received))
    assert {path.name for path in (home(received) / "plans").iterdir()} == kept
    assert adopt(received.site(0), "first", ANN).version == 1


def test_an_old_backup_does_not_bring_back_what_was_rolled_back(received: PublishingLab) -> None:
    adopt(received.site(0), "second", ANN)
    archive = backed_up(received)
    rollback(received.site(0), by="Ann Lee")
    lose(received, "adopted")
    done = restore(archive, home(received))
    assert (home(received) / "adopted" / "versions" / "0001" / "adoption.json").is_file()
    assert done.in_service == 0 and not os.path.lexists(home(received) / "adopted" / "current")
    assert in_service(received.site(0)) is None


def test_an_old_backup_does_not_turn_a_link_or_name_a_version_that_is_not_there(
    received: PublishingLab
) -> None:
    adopt(received.site(0), "first", ANN)
    archive = backed_up(received)
    adopt(received.site(0), "second", ANN)
    lose(received, "adopted/versions/0001")
    assert restore(archive, home(received)).in_service == 0
    assert os.readlink(home(received) / "adopted" / "current") == "versions/0002"
    lose(received, "adopted")  # and with it the second version, which no backup has
    assert restore(archive, home(received)).in_service == 0
    assert not os.path.lexists(home(received) / "adopted" / "current")
    with pytest.raises(Rejected, match="ADOPTION_DAMAGED"):
        in_service(received.site(0))


def test_a_log_put_back_does_not_turn_the_adapter_in_service_back(
    received: PublishingLab
) -> None:
    """It forgets the second adoption; the link remembers it, and a person settles what serves."""
    adopt(received.site(0), "first", ANN)
    archive = backed_up(received)
    adopt(received.site(0), "second", ANN)
    link, versions = home(received) / "adopted" / "current", home(received) / "adopted/versions"
    second = (versions / "0002" / "adoption.json").read_bytes()
    lose(received, "audit.db")
    restore(archive, home(received), history_lost=True)
    assert "NOT KNOWN [ADOPTION_UNKNOWN]" in list(overview(received.site(0)))[-1]
    for act in (lambda: adopt(received.site(0), "second", ANN),
                lambda: rollback(received.site(0), by="Ann Lee")):
        with pytest.raises(Rejected, match="ADOPTION_UNKNOWN"):
            act()
    assert os.readlink(link) == "versions/0002"
    time.sleep(1.1)  # the log counts seconds; what it says after the backup it knows
    chosen = AdoptionChoice(by="Bob Roe", older=True)
    assert adopt(received.site(0), "second", chosen).version == 3
    assert os.readlink(link) == "versions/0003"
    assert (versions / "0002" / "adoption.json").read_bytes() == second
    # From here on the log knows: a link that somebody turns is turned back.
    link.unlink()
    link.symlink_to("versions/0001")
    found = in_service(received.site(0))
    assert found is not None and found.version == 3 and os.readlink(link) == "versions/0003"


def test_a_log_put_back_does_not_bring_back_what_was_rolled_back_since(
    received: PublishingLab
) -> None:
    adopt(received.site(0), "first", ANN)
    adopt(received.site(0), "second", ANN)
    archive = backed_up(received)
    rollback(received.site(0), by="Ann Lee")
    lose(received, "audit.db")
    restore(archive, home(received), history_lost=True)
    assert "ADOPTION_UNKNOWN" in list(overview(received.site(0)))[-1]
    assert os.readlink(home(received) / "adopted" / "current") == "versions/0001"


def test_a_hospital_that_moved_away_decides_and_adopts_nothing_where_it_was(
    received: PublishingLab
) -> None:
    """Two copies would sign two decisions of one number, and have two adapters in service."""
    site = received.site(0)
    make_backup(home(received), received.base / "move.tar", final=True)
    decided = (home(received) / "audit.db").read_bytes()
    for act in (
        lambda: received.decide(0, "countersigned"),
        lambda: adopt(received.site(0), "second", ANN),
        lambda: rollback(received.site(0), by="Ann Lee"),
        lambda: adopt(site, "second", ANN),
    ):
        with pytest.raises(Misconfigured, match="PARTY_RETIRED"):
            act()
    assert (home(received) / "audit.db").read_bytes() == decided
