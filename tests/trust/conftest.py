"""Lets trust tests, and the processes they start, import the helpers beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from trust_lab import OPENED


@pytest.fixture(autouse=True)
def no_record_outlives_its_test() -> Iterator[None]:
    with OPENED:
        yield
