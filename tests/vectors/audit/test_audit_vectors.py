"""The frozen vectors end as they say, and still come out of the code byte for byte."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from medunlearn_common.attestation.dsse import opened
from medunlearn_common.attestation.witnesses import WitnessKeys, witnesses_of
from medunlearn_common.audit import COORDINATOR, LogExport
from medunlearn_common.audit.merkle import is_consistent, is_included, root_of
from medunlearn_common.errors import Rejected
from medunlearn_common.roster import Roster

HERE = Path(__file__).parent
FILES = sorted(path.name for path in HERE.glob("[0-9]*.json"))


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _hashes(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(bytes.fromhex(text) for text in texts)


def outcome(vector: dict[str, Any]) -> Any:
    """What the code makes of a vector, in the vector's own words."""
    check = vector["check"]
    if check == "roots":
        leaves = _hashes(vector["leaves"])
        found = [root_of(leaves[:size]).hex() for size in range(len(leaves) + 1)]
        return "ok" if found == vector["roots"] else {"step": "roots", "code": None}
    if check == "inclusion":
        holds = is_included(
            bytes.fromhex(vector["leaf"]), index=vector["index"], size=vector["size"],
            proof=_hashes(vector["proof"]), root=bytes.fromhex(vector["root"]),
        )
        return "ok" if holds else {"step": "inclusion", "code": None}
    if check == "consistency":
        holds = is_consistent(
            old_size=vector["old_size"], old_root=bytes.fromhex(vector["old_root"]),
            size=vector["size"], root=bytes.fromhex(vector["root"]),
            proof=_hashes(vector["proof"]),
        )
        return "ok" if holds else {"step": "consistency", "code": None}
    return _signed_outcome(vector, Roster.from_bytes(_bytes(vector["roster"])))


def _signed_outcome(vector: dict[str, Any], book: Roster) -> Any:
    step = "log" if vector["check"] == "log" else "signature"
    try:
        if step == "signature":
            payload = opened(_bytes(vector["file"]), book, signer=COORDINATOR)
            assert payload == _bytes(vector["payload"])
            return "ok"
        export = LogExport.from_bytes(_bytes(vector["file"]))
        export.verify(book, keeper=COORDINATOR)
        step = "witnesses"
        witnesses_of(export, WitnessKeys(
            used=book, attested=book, attested_size=0, carried={}, took_part=frozenset()))
        return "ok"
    except Rejected as error:
        found = {"step": step, "code": error.code}
        if "first_bad" in vector["outcome"]:
            found["first_bad"] = int(error.message.partition("record ")[2].split()[0])
        return found


@pytest.mark.parametrize("name", FILES)
def test_vector_ends_as_it_says(name: str) -> None:
    vector = json.loads((HERE / name).read_text("ascii"))
    assert outcome(vector) == vector["outcome"]
    assert (vector["outcome"] != "ok") == ("-bad-" in name)


def test_vectors_are_made_the_same_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    import make_audit_vectors

    made = make_audit_vectors.vectors()
    sys.modules.pop("make_audit_vectors")
    assert sorted(made) == FILES
    assert {name: (HERE / name).read_text("ascii") for name in FILES} == made
