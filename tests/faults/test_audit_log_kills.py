"""Killed at random write points, the log and the witnesses lose nothing they acknowledged."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def test_kills_at_random_write_points_lose_nothing_acknowledged(tmp_path: Path) -> None:
    script = Path(__file__).with_name("audit_log_kills.py")
    done = subprocess.run(
        [sys.executable, script, tmp_path, "100", "1"], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(r"100 kills, (\d+) acknowledged writes, none lost\n", done.stdout)
    assert said is not None and int(said[1]) > 0
