"""A worker runs for months: what it opens anew does not pile up."""

from __future__ import annotations

from contextlib import closing

import pytest
from hospital_lab import Lab
from open_files import all_closed_again

from medunlearn_client.service.config import HospitalConfig
from medunlearn_client.service.worker import LocalSite
from medunlearn_common.messages import Message

GREETING = Message(kind="anything")


@pytest.fixture(autouse=True)
def no_limits_on_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medunlearn_client.service.limits.apply_limits", lambda section: None)


def test_a_worker_that_ends_holds_no_file(lab: Lab) -> None:
    with all_closed_again(lab.home), closing(LocalSite(lab.home, HospitalConfig())) as site:
        site.handle(GREETING)


def test_a_policy_that_is_edited_again_and_again_opens_nothing_more(lab: Lab) -> None:
    policy = lab.home / "trust" / "policy.toml"

    def edited(text: str) -> None:
        policy.write_text(f"{policy.read_text()}# {text}\n")
        site.handle(GREETING)

    with closing(LocalSite(lab.home, HospitalConfig())) as site:
        # SQLite keeps a closed file's descriptor for the next one while the file is open.
        edited("for the first time")
        with all_closed_again(lab.home):
            for number in range(3):
                edited(str(number))
