"""Attacks by a coordinator that takes a hospital's place in a masked sum."""

from __future__ import annotations

from pathlib import Path

import pytest
import trust_lab as lab

from medunlearn_common.errors import Rejected

CONTEXT, MESSAGE = "medunlearn/test", b"who is in the sum"


def test_a_coordinators_own_key_is_no_member_of_a_sum(tmp_path: Path) -> None:
    """It is in the roster and signs well; it would count towards m and add no noise."""
    site = lab.trust(tmp_path / "site-0", "site-0")
    coordinator = lab.trust(tmp_path / "coordinator", "coordinator")
    other = lab.trust(tmp_path / "site-1", "site-1")
    signed = other.identity.sign(CONTEXT, MESSAGE)
    site.verify("site-1", CONTEXT, MESSAGE, signed)
    forged = coordinator.identity.sign(CONTEXT, MESSAGE)
    with pytest.raises(Rejected) as refused:
        site.verify("coordinator", CONTEXT, MESSAGE, forged)
    assert refused.value.code == "SENDER_ROLE"
