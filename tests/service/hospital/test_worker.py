"""The worker process: what it answers, who reaches it, and what its death costs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from hospital_lab import Lab, holds

from medunlearn_client.service.status import SiteStatus
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.messages import STEP, Message
from medunlearn_common.processes import Child


def adapter_of(lab: Lab, run_id: str = "lab") -> bytes:
    return (lab.folder / "runs" / run_id / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_worker_killed_in_mid_request_is_restarted_and_the_round_is_not_lost(
    make_lab: Callable[..., Lab]
) -> None:
    lab = make_lab()
    child = lab.worker()
    killed: list[int] = []

    def kill_once_charged(site: str, request: Message) -> None:
        if site == "site-0" and request.kind == STEP and not killed:
            killed.append(child.pid or 0)
            threading.Thread(target=killer, args=(lab, child), daemon=True).start()

    outcome = lab.run(before=kill_once_charged)
    assert outcome.rounds == 2 and killed and child.restarts == 1
    assert child.last_exit == -signal.SIGKILL
    status = SiteStatus.read(lab.paths.status)
    assert status.restarts == 1 and status.worker_pid == child.pid
    assert status.model_loaded and status.last_kind == "finish" and status.run_id == "lab"
    assert not status.errors

    # The very same numbers as a federation in one process without any death.
    other = make_lab()
    from medunlearn_client.hospital import open_hospital
    from medunlearn_client.sealed_hospital import seal_hospital
    from medunlearn_common.plan import RuntimeOptions

    runtime = RuntimeOptions(runner="memory", device="cpu")
    plain = seal_hospital(other.home, open_hospital(other.home, runtime))
    other.run(home=plain)
    assert adapter_of(lab) == adapter_of(other)


def killer(lab: Lab, child: Child) -> None:
    """kill -9 between the ledger's charge and the answer."""
    pid = child.pid
    ledger = lab.home / "ledger.db"
    holds(lambda: ledger.exists() and PrivacyLedger(ledger).releases(run_id="lab") > 0)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
