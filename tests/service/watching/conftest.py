"""Modules shared by these tests, and those of whole runs."""

import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(_TESTS / "integration")]
sys.path.extend(str(_TESTS / "service" / name) for name in ("coordinator", "joining"))

from watch_lab import lab, quiet_output  # noqa: E402

__all__ = ["lab", "quiet_output"]
