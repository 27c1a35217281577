"""Frozen vectors: the good ones open, the bad ones fail at the step they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from make_vectors import FOLDER, vectors

from medunlearn_common.envelope import open_envelope
from medunlearn_common.envelope.dsse import parse_signed
from medunlearn_common.errors import Rejected
from medunlearn_common.identity import verify_signature
from medunlearn_common.identity.keys import pre_authentication_encoding
from medunlearn_common.offer import open_offer
from medunlearn_common.roster import Root, Roster, require_successor, verify_roster
from medunlearn_common.roster.document import ROSTER_TYPE

FILES = sorted(FOLDER.glob("*.json"))


def check(vector: dict[str, Any]) -> None:
    now = vector["now"]
    if vector["what"] == "signature":
        message = bytes.fromhex(vector["message"])
        assert pre_authentication_encoding(vector["context"], message).hex() == vector["encoding"]
        verify_signature(bytes.fromhex(vector["public_key"]), vector["context"], message,
                         bytes.fromhex(vector["signature"]))
        return
    data = bytes.fromhex(vector["bytes"])
    if vector["what"] == "roster":
        root = Root.from_bytes(bytes.fromhex(vector["root"]))
        found = verify_roster(data, root, now=now)
        if vector["after"]:
            before = verify_roster(bytes.fromhex(vector["after"]), root, now=now)
            require_successor(found, before)
        return
    document = parse_signed(bytes.fromhex(vector["roster"]))
    assert document.payload_type == ROSTER_TYPE
    keys = Roster.from_bytes(document.payload)
    if vector["what"] == "offer":
        assert open_offer(data, keys, now=now).plan.digest == vector["plan_digest"]
        return
    open_envelope(data, keys, now=now, expect=lambda header: None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_frozen_vector(path: Path) -> None:
    vector = json.loads(path.read_text())
    if vector["fails_with"]:
        with pytest.raises(Rejected) as caught:
            check(vector)
        assert caught.value.code == vector["fails_with"]
    else:
        check(vector)


def test_there_are_enough_vectors_and_the_script_still_makes_these() -> None:
    kept = {path.stem: json.loads(path.read_text()) for path in FILES}
    assert len(kept) >= 15
    assert sum(bool(vector["fails_with"]) for vector in kept.values()) >= 6
    made = vectors()
    assert set(kept) == set(made)
    for name, vector in made.items():
        assert {k: v for k, v in kept[name].items() if k != "now"} == vector, name
