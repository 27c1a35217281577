"""Who says two things is proven to third parties; who did not is not accused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from open_files import all_closed_again
from test_envelope_attacks import resigned, sealed
from trust_lab import ROOT, Lab, key, roster, signed
from typer.testing import CliRunner

from medunlearn_common.audit import Checkpoint, signed_checkpoint
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected
from medunlearn_common.evidence import Contradiction, collected, from_bytes, proven, to_bytes
from medunlearn_common.evidence.commands import evidence_app


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site's folder after its coordinator said two things in one place."""
    lab = Lab(tmp_path / "lab")
    lab.ready(), lab.step(0)
    address, message = sealed(lab)[-1]
    lab.hospitals[address].handle(resigned(lab, key("coordinator"), message, nonce=b"\7" * 16))
    store = tmp_path / "site" / "trust" / "envelopes.db"
    store.parent.mkdir(parents=True)
    lab.hospitals[address].trust.close()
    store.write_bytes((tmp_path / "lab" / address / "envelopes.db").read_bytes())
    return tmp_path / "site"


def test_equivocation_is_proven_by_a_command_from_public_keys_alone(
    site: Path, tmp_path: Path
) -> None:
    keys, root, file = (tmp_path / n for n in ("roster.dsse", "root.cbor", "evidence.json"))
    keys.write_bytes(signed(roster()))
    root.write_bytes(ROOT.to_bytes())
    runner = CliRunner()
    told = runner.invoke(evidence_app, ["export", str(file), "--folder", str(site)])
    assert "1 contradictions" in told.stdout
    arguments = ["verify", str(file), "--keys", str(keys), "--root", str(root)]
    told = runner.invoke(evidence_app, arguments)
    assert told.exit_code == 0
    assert "proven: coordinator signed two requests for step of round 0" in told.stdout
    changed = json.loads(file.read_bytes())
    changed["contradictions"][0]["other"] = changed["contradictions"][0]["kept"]
    file.write_bytes(to_bytes([Contradiction(**changed["contradictions"][0])]))
    told = runner.invoke(evidence_app, arguments)
    assert isinstance(told.exception, Rejected) and "not proven" in told.stdout


def test_nobody_is_accused_with_forged_exchanged_or_honest_statements(site: Path) -> None:
    one, = collected(site)
    assert proven(one, roster())
    other_keys = replace(roster(), parties=tuple(
        p for p in roster().parties if p.party_id != "coordinator"))
    revoked = replace(roster(), revoked=(key("coordinator").key_id,))
    for book, code in ((other_keys, "KEY_UNKNOWN"), (revoked, "KEY_REVOKED")):
        with pytest.raises(Rejected) as caught:
            proven(one, book)
        assert caught.value.code == code
    for position in range(0, len(one.kept), 7):
        letter = "A" if one.kept[position] != "A" else "B"
        forged = replace(one, kept=one.kept[:position] + letter + one.kept[position + 1 :])
        with pytest.raises(MedunlearnError):
            proven(forged, roster())


def test_collecting_leaves_no_file_open(site: Path) -> None:
    with all_closed_again(site):
        assert collected(site)


@pytest.mark.parametrize(("origins", "sizes", "accused"), [
    (("coordinator/run-1/k", "coordinator/run-1/k"), (5, 5), "two states"),
    (("coordinator/run-1/k", "coordinator/run-1/other"), (5, 3), "two logs of one run"),
    (("coordinator/run-1/k", "coordinator/run-2/k"), (5, 5), ""),
    (("coordinator/run-1/k", "coordinator/run-1/k"), (5, 3), ""),
])
def test_two_states_of_a_log(
    origins: tuple[str, str], sizes: tuple[int, int], accused: str
) -> None:
    kept, other = (
        signed_checkpoint(
            Checkpoint(origin=origin, size=size, root=bytes([number]) * 32), key("coordinator")
        ).to_text() for number, (origin, size) in enumerate(zip(origins, sizes, strict=True))
    )
    one = Contradiction(kind="logs", kept=kept, other=other)
    if accused:
        assert accused in proven(one, roster())
    else:
        with pytest.raises(Rejected, match="EVIDENCE_PROVES_NOTHING"):
            proven(one, roster())
    by_another = replace(one, other=other.replace("\u2014 coordinator ", "\u2014 rival "))
    with pytest.raises(Rejected, match="CHECKPOINT_SIGNER"):
        proven(by_another, roster())


def test_files_that_are_no_evidence(tmp_path: Path) -> None:
    for data in (b"", b"{}", b"[]", b'{"contradictions":[{}]}', b"\xff", b"[" * 100_000,
                 b'{"contradictions":[{"kind":"x","kept":"","other":""}],"schema":1}'):
        with pytest.raises(Rejected, match="EVIDENCE_MALFORMED"):
            from_bytes(data)
    with pytest.raises(Misconfigured, match="EVIDENCE_NO_PARTY"):
        collected(tmp_path)
