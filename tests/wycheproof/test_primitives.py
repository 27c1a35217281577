"""Our own edge cases of the primitives; Wycheproof's run by ``make wycheproof VECTORS=FOLDER``."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent / "vectors" / "primitives"


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"primitives_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUN = loaded(HERE / "run.py")


@pytest.mark.parametrize("name", sorted(RUN.FILES))
def test_weak_keys_malleable_signatures_and_cut_tags_are_refused(name: str) -> None:
    counts, failures = RUN.run_file(FOLDER / name)
    assert failures == []
    assert counts["invalid"] >= 1 and counts["valid"] >= 2


def test_the_script_still_makes_these_vectors() -> None:
    for name, document in loaded(FOLDER / "make_vectors.py").files().items():
        assert json.loads((FOLDER / name).read_text()) == document


@pytest.mark.parametrize("name", sorted(RUN.FILES))
def test_a_case_that_goes_wrong_is_reported(name: str, tmp_path: Path) -> None:
    """The runner can fail: what is valid is called invalid, and the other way round."""
    document: dict[str, Any] = json.loads((FOLDER / name).read_text())
    swap = {"valid": "invalid", "invalid": "valid", "acceptable": "acceptable"}
    swapped = 0
    for group in document["testGroups"]:
        for case in group["tests"]:
            swapped += case["result"] != "acceptable"
            case["result"] = swap[case["result"]]
    (tmp_path / name).write_text(json.dumps(document))
    assert len(RUN.run_file(tmp_path / name)[1]) == swapped


def test_without_a_folder_it_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    assert RUN.main("") == 0 and "skipped" in capsys.readouterr().out
    assert RUN.main(str(FOLDER.parent)) == 1  # a folder without the files is no success


@pytest.mark.skipif("WYCHEPROOF" not in os.environ, reason="WYCHEPROOF names no folder")
def test_the_official_files() -> None:
    assert RUN.main(os.environ["WYCHEPROOF"]) == 0
