"""What hospitals say of their erasure requests, as a coordinator of many runs collects it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medunlearn_client.request_roots import RunRoot, root_for_run
from medunlearn_common.entropy import OsEntropy
from medunlearn_common.errors import Misconfigured

ROOT = "ab" * 32


def said(folder: Path, run_id: str, given: str | None = ROOT) -> RunRoot:
    return root_for_run(
        folder, site_id=folder.name, run_id=run_id, given=given, entropy=OsEntropy()
    )


def test_two_runs_of_one_hospital_are_not_linked_by_what_it_says(tmp_path: Path) -> None:
    """One hospital has requests and the other has none: neither repeats itself."""
    busy, idle = tmp_path / "busy", tmp_path / "idle"
    shown = [
        said(folder, run, given).shown
        for folder, given in ((busy, ROOT), (idle, None)) for run in ("one", "two", "three")
    ]
    assert len(set(shown)) == 6 and ROOT not in shown
    assert all(len(bytes.fromhex(text)) == 32 for text in shown)
    # Neither the run nor the root, both known, gives it: the nonce is missing.
    assert said(tmp_path / "twin", "one").shown != shown[0]


def test_the_same_run_is_told_the_same_also_after_the_root_changed(tmp_path: Path) -> None:
    first = said(tmp_path, "one")
    assert said(tmp_path, "one", "cd" * 32) == first == said(tmp_path, "one", None)
    assert said(tmp_path, "two", "cd" * 32).root == "cd" * 32


def test_another_root_or_run_does_not_open_what_was_shown(tmp_path: Path) -> None:
    first = said(tmp_path, "one")
    for changed in (replace(first, root="cd" * 32), replace(first, run_id="two"),
                    replace(first, nonce="00" * 32)):
        assert changed.shown != first.shown
    assert first.root not in repr(first) and first.nonce not in repr(first)


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    said(tmp_path, "one")
    note, = (tmp_path / "runs").iterdir()
    for text in (b"", b"{}", b"[]", b'{"root": 1, "nonce": "xy"}', b"\xff"):
        note.write_bytes(text)
        with pytest.raises(Misconfigured, match="REQUEST_ROOT_DAMAGED"):
            said(tmp_path, "one")
