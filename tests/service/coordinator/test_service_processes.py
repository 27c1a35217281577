"""What the coordinator's processes import: the installed code, wherever somebody starts them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from loopback_federation import Federation, three_sites

from medunlearn_common.logs import EventLog, PrivateFile
from medunlearn_server.service.supervisor import Supervisor

PLANTED = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"


def test_modules_that_lie_where_the_service_is_started_are_not_imported(tmp_path: Path) -> None:
    """In /tmp anybody may leave a ``uvicorn.py``: it would hold the gateway's key."""
    federation, planted = Federation(tmp_path / "federation", three_sites()), tmp_path / "planted"
    planted.mkdir()
    for name in ("uvicorn", "starlette", "httpx", "prometheus_client", "jinja2", "json"):
        (planted / f"{name}.py").write_text(PLANTED)
    config = federation.path / "coordinator.toml"
    config.write_text(config.read_text().replace("enabled = false", "enabled = true"))
    log = EventLog(component="service", private=PrivateFile(tmp_path / "private.log"))
    ours = [spec for spec in Supervisor(federation.folder, log)._specs()
            if spec.command[0] == sys.executable]
    assert {spec.name for spec in ours} == {"gateway", "watch"}
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    (wrong / config.name).write_text("[")  # read after the imports: each ends with it
    for spec in ours:
        command = [*spec.command[:-1], str(wrong)]
        done = subprocess.run(command, env=dict(spec.environment), cwd=planted,
                              capture_output=True, timeout=60, check=False)
        assert done.returncode != 0
        assert not (planted / "ran").exists(), spec.name
