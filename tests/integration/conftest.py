"""What integration tests share: the way to the helpers beside them, and public text."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

# Processes that tests start import the helpers too.
sys.path.insert(0, str(Path(__file__).resolve().parent))
# Samples of terminologies, which whole runs use as well.
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "terminologies"))


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Questions with answers, of nobody."""
    file = tmp_path / "public.jsonl"
    file.write_text("".join(
        json.dumps({"id": f"p{i}", "prompt": f"Question: What is organ {i}?\nAnswer:",
                    "answer": "the liver"}) + "\n" for i in range(24)
    ), encoding="utf-8")
    return file
