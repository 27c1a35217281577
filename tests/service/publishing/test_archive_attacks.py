"""Archives that would write elsewhere, unfold, lie or be read in two ways."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest

from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured, Rejected
from medunlearn_common.identity import SigningIdentity
from medunlearn_common.publication import (
    FULL_FILES,
    UPDATE_FILES,
    Decision,
    archive,
    open_decision,
    pack,
    unpack,
)
from medunlearn_common.strict_cbor import encode

FILES = {name: name.encode() * 3 for name in FULL_FILES}


def forged(files: dict[str, bytes], **changes: Any) -> bytes:
    """An archive with whatever names and facts its author likes."""
    entries = [
        {"name": name, "length": len(data), "sha256": hashlib.sha256(data).digest()}
        for name, data in files.items()
    ]
    for entry in entries:
        entry.update(changes.get(entry["name"], {}))
    if "twice" in changes:
        entries.append(entries[-1])
    head = encode({"format": changes.get("format", archive.FORMAT), "files": entries})
    return len(head).to_bytes(4, "big") + head + b"".join(files.values())


def code_of(data: bytes) -> str:
    with pytest.raises(Rejected) as caught:
        unpack(data)
    return caught.value.code


def test_an_archive_comes_back_and_has_one_spelling() -> None:
    assert unpack(pack(FILES)) == FILES
    assert pack(dict(reversed(FILES.items()))) == pack(FILES)
    update = dict.fromkeys((*UPDATE_FILES, "statements/site-0.dsse"), b"x")
    assert unpack(pack(update)) == update


@pytest.mark.parametrize("name", [
    "../../.ssh/authorized_keys", "/etc/cron.d/job", "adapter/../../escape", "adapter/./x",
    "adapter\\..\\x", "statements/../x.dsse", "statements/a/b.dsse", "statements/.dsse",
    "statements/x.dsse\n", "adapter/pytorch_model.bin", "trust/root.cbor", "",
    "C:/windows", "adapter/adapter_model.safetensors\0",
])
def test_path_traversal_and_names_of_the_attackers_choosing(name: str) -> None:
    assert code_of(forged(dict(sorted({**FILES, name: b"evil"}.items())))) == "ARCHIVE_NAME"
    with pytest.raises(ValueError, match="no publication"):
        pack({**FILES, name: b"evil"})


def test_a_file_twice_or_out_of_order() -> None:
    ordered = dict(sorted(FILES.items()))
    assert code_of(forged(ordered, twice=True)) == "ARCHIVE_NAME"
    assert code_of(forged(dict(reversed(ordered.items())))) == "ARCHIVE_NAME"


def test_files_missing_or_neither_whole_nor_update() -> None:
    for left_out in FULL_FILES:
        rest = {name: data for name, data in sorted(FILES.items()) if name != left_out}
        assert code_of(forged(rest)) == "ARCHIVE_FILES"


def test_cut_extended_and_lying_archives() -> None:
    whole = pack(FILES)
    for cut in (0, 1, 3, 4, 40, len(whole) // 2, len(whole) - 1):
        assert code_of(whole[:cut]) in ("ARCHIVE_FORM", "CBOR_TRUNCATED", "CBOR_SCHEMA")
    assert code_of(whole + b"x") == "ARCHIVE_FORM"
    assert code_of(b"\xff\xff\xff\xff" + whole[4:]) == "ARCHIVE_FORM"
    ordered, name = dict(sorted(FILES.items())), "result.json"
    assert code_of(forged(ordered, **{name: {"sha256": bytes(32)}})) == "ARCHIVE_DIGEST"
    assert code_of(forged(ordered, **{name: {"length": 10**9}})) == "ARCHIVE_SIZE"
    assert code_of(forged(ordered, **{name: {"length": -1}})) == "ARCHIVE_FORM"
    assert code_of(forged(ordered, **{name: {"length": True}})) == "ARCHIVE_FORM"
    assert code_of(forged(ordered, format="tar")) == "ARCHIVE_FORM"


def test_damaged_archives_and_decisions_are_refused_and_nothing_else() -> None:
    identity = SigningIdentity.generate("site-0", SeededEntropy(3))

    class Keys:
        def party_of_key(self, key_id: str, *, now: float) -> tuple[str, bytes]:
            if key_id != identity.key_id:
                raise Rejected("KEY_UNKNOWN", "no such key", "none")
            return "site-0", identity.public_key

    decision = Decision(
        run="one", site="site-0", attestation=bytes(32), adapter=bytes(32), verdict="objected",
        by="Ann Lee", reason=bytes(32), number=1, issued=0,
    )
    signed, whole = decision.sign(identity), pack(FILES)
    assert open_decision(signed, Keys(), now=0.0) == decision
    draw = random.Random(5)
    for data, read in ((whole, unpack), (signed, lambda d: open_decision(d, Keys(), now=0.0))):
        for _ in range(400):
            changed = bytearray(data)
            for _ in range(draw.randint(1, 3)):
                changed[draw.randrange(len(changed))] = draw.randrange(256)
            if bytes(changed) == data:
                continue
            with pytest.raises(Rejected):
                read(bytes(changed))


@pytest.mark.parametrize("changes", [
    {"site": "site-1"}, {"verdict": "adored"}, {"by": "A\nB"}, {"by": ""}, {"run": "../x"},
    {"number": -1}, {"attestation": bytes(31)}, {"reason": b""},
])
def test_a_signed_decision_with_unlawful_values(changes: dict[str, Any]) -> None:
    identity = SigningIdentity.generate("site-0", SeededEntropy(3))

    class Keys:
        def party_of_key(self, key_id: str, *, now: float) -> tuple[str, bytes]:
            return "site-0", identity.public_key

    decision = Decision(**{
        "run": "one", "site": "site-0", "attestation": bytes(32), "adapter": bytes(32),
        "verdict": "objected", "by": "Ann", "reason": bytes(32), "number": 1, "issued": 0,
        **changes,
    })
    with pytest.raises(Rejected, match="DECISION_"):
        open_decision(decision.sign(identity), Keys(), now=0.0)


def test_an_archive_that_is_too_large_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack(FILES)
    monkeypatch.setattr(archive, "MAX_ARCHIVE_BYTES", len(whole) - 1)
    assert code_of(whole) == "ARCHIVE_SIZE"
    with pytest.raises(Misconfigured, match="PUBLICATION_TOO_LARGE"):
        pack(FILES)
