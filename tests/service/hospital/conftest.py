"""Folders of three hospitals, and whatever runs in them ends with the test."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "joining"))
sys.path.insert(0, str(Path(__file__).parent))

from hospital_lab import PLAN, Lab, write_hospitals

from medunlearn_common.plan import plan_from_text


@pytest.fixture(scope="module")
def make_lab(
    tiny_model_folder: Path, question_file: Path
) -> Iterator[Callable[..., Lab]]:
    labs: list[Lab] = []
    with tempfile.TemporaryDirectory(prefix="mu-", dir="/tmp") as short:  # sockets: 107 bytes

        def make(plan: str = PLAN) -> Lab:
            lab = Lab(Path(short) / f"lab-{len(labs)}", plan_from_text(plan).shared())
            write_hospitals(lab, model=tiny_model_folder, questions=question_file)
            labs.append(lab)
            return lab

        try:
            yield make
        finally:
            for lab in labs:
                lab.close()


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()
