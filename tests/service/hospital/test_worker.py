"""The worker process: what it answers, who reaches it, and what its death costs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hospital_lab import Lab, Remote, holds

from medunlearn_client.service import commands
from medunlearn_client.service.status import SiteStatus
from medunlearn_client.service.wire import from_wire, to_wire
from medunlearn_client.service.worker_client import WorkerClient, socket_of
from medunlearn_client.site_audit import SiteAudit
from medunlearn_common.entropy import SeededEntropy
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.messages import ERROR, STEP, Message
from medunlearn_common.processes import Child
from medunlearn_common.service.worker_pb2 import Envelope
from medunlearn_server.requests import ready_request
from medunlearn_server.transport import Reply, SiteFailure


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
    with closing(seal_hospital(other.home, open_hospital(other.home, runtime))) as plain:
        other.run(home=plain)
    assert adapter_of(lab) == adapter_of(other)


def killer(lab: Lab, child: Child) -> None:
    """kill -9 between the ledger's charge and the answer."""
    pid = child.pid
    ledger = lab.home / "ledger.db"
    holds(lambda: ledger.exists() and PrivacyLedger(ledger).releases(run_id="lab") > 0)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def served(make_lab: Callable[..., Lab]) -> tuple[Lab, Child]:
    """A hospital whose plans a person approves, with its worker running."""
    lab = make_lab()
    lab.configure(approval={"required": True})
    child = lab.worker()
    lab.client().look()
    return lab, child


def test_an_unapproved_plan_opens_no_record_and_begins_once_a_person_approved_it(
    served: tuple[Lab, Child]
) -> None:
    lab, _ = served
    looked: list[SiteStatus] = []

    def approve_at_first_wait(seconds: float) -> None:
        if not looked:
            looked.append(SiteStatus.read(lab.paths.status))
            commands.approve(lab.plan.digest[:12], by="Dr. Ada Berg", folder=lab.home)

    outcome = lab.run(sleep=approve_at_first_wait)
    assert outcome.rounds == 2
    assert not looked[0].model_loaded and looked[0].errors == {"PLAN_AWAITS_APPROVAL": 1}
    kinds = [(r.kind, r.fields.get("by")) for r in SiteAudit(
        lab.home, site_id="site-0", entropy=SeededEntropy(0)).log.records]
    approved, accepted = ("plan_approved", "Dr. Ada Berg"), ("plan_accepted", None)
    assert kinds.index(approved) < kinds.index(accepted)
    assert kinds.count(approved) == 1


def test_an_approval_is_of_one_run_and_an_edited_policy_holds_at_once(
    served: tuple[Lab, Child]
) -> None:
    lab, _ = served
    request = ready_request(lab.plan, run_id="again", round_index=0, start=0)
    assert code_of(lab.ask(request, run_id="again")) == "POLICY_QUOTA"
    policy = lab.home / "trust" / "policy.toml"
    policy.write_text(policy.read_text().replace("max_runs = 1", "max_runs = 5"))
    assert code_of(lab.ask(request, run_id="again")) == "PLAN_AWAITS_APPROVAL"
    commands.decline(lab.plan.digest, by="Dr. Ada Berg", folder=lab.home)
    assert code_of(lab.ask(request, run_id="again")) == "PLAN_DECLINED"


def test_another_users_process_is_refused_at_the_socket(served: tuple[Lab, Child]) -> None:
    socket_path = served[0].paths.socket
    assert socket_path.stat().st_mode & 0o777 == 0o600
    assert socket_path.parent.stat().st_mode & 0o777 == 0o700
    if os.getuid() != 0:
        pytest.skip("becoming another user needs root")
    code = (
        "import os, socket, sys\nos.setgid(65534); os.setuid(65534)\n"
        "try:\n    socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except PermissionError:\n    raise SystemExit(7)\n"
    )
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code, str(socket_path)], check=False)
    assert found.returncode == 7


def test_a_socket_that_another_user_could_have_made_is_not_asked(
    served: tuple[Lab, Child], tmp_path: Path
) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(tmp_path / "s"))
        for mode in (0o755, 0o770):
            tmp_path.chmod(mode)
            with pytest.raises(Misconfigured, match="WORKER_SOCKET"):
                WorkerClient(tmp_path / "s", timeout_s=1, patience_s=0).look()
    (tmp_path / "t").mkdir(mode=0o700)
    os.symlink(served[0].paths.socket, tmp_path / "t" / "s")
    with pytest.raises(Misconfigured, match="WORKER_SOCKET"):
        WorkerClient(tmp_path / "t" / "s", timeout_s=1, patience_s=0).look()


def test_two_workers_for_one_folder_exclude_each_other(served: tuple[Lab, Child]) -> None:
    lab, _ = served
    path = os.pathsep.join(entry for entry in sys.path if entry)
    second = subprocess.run(
        [sys.executable, "-m", "medunlearn_client.service.worker", str(lab.home)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )
    assert second.returncode == 2 and "WORKER_RUNNING" in lab.log()
    assert lab.client().look().site_id == "site-0"


FORWARD = """
import sys
from flwr.app import Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
from medunlearn_client.flower_app import app
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.messages import Message
roster = open(sys.argv[2], "rb").read()
asked = FlowerMessage(to_records(Message(kind="hello", fields={"round": 0}, payload=roster)),
                      dst_node_id=1, message_type="query.hello")
context = Context(run_id=1, node_id=1, node_config={"worker": "unix://" + sys.argv[1]},
                  state=RecordDict(), run_config={"site-folder": "/nowhere"})
answer = from_records(app(asked, context).content)
print(answer.kind, answer.fields.get("site_id"), "torch" in sys.modules,
      "transformers" in sys.modules)
"""


def test_the_app_process_forwards_and_imports_no_torch(served: tuple[Lab, Child]) -> None:
    lab, _ = served
    path = os.pathsep.join(entry for entry in sys.path if entry)
    found = subprocess.run(
        [sys.executable, "-c", FORWARD, str(lab.paths.socket),
         str(lab.home / "trust" / "roster.dsse")],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )
    assert found.stdout == "hello site-0 False False\n", found.stderr[-2000:]


def test_garbage_from_the_socket_gets_a_bare_code(served: tuple[Lab, Child]) -> None:
    answer = served[0].client().ask(Message(kind="sealed", payload=b"patient Jane Roe"))
    assert answer.kind == ERROR and set(answer.fields) == {"code"}
    assert "Jane" not in str(answer) and not answer.payload


def test_sigterm_finishes_the_answer_under_way_and_refuses_the_next(
    served: tuple[Lab, Child]
) -> None:
    lab, child = served
    answers: list[Message] = []
    asked = Remote(lab.client(patience_s=5.0))  # nobody starts the worker again
    # More greetings than can be answered at once: the first is under way, others wait.
    hello = Message(kind="hello", payload=(lab.home / "trust" / "roster.dsse").read_bytes())
    pid = child.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that all of them are there before the signal is seen
    threads = [threading.Thread(target=lambda: answers.append(asked.handle(hello)))
               for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    stopper = threading.Thread(target=child.stop)
    stopper.start()
    os.kill(pid, signal.SIGCONT)
    for thread in [*threads, stopper]:
        thread.join(60)
    codes = [a.fields.get("code") for a in answers]
    assert len(answers) == 3 and set(codes) <= {
        None, "SITE_STOPPING", "SITE_WORKER_AWAY", "SITE_WORKER_LOST"}
    assert child.last_exit == 0
    assert SiteStatus.read(lab.paths.status).state == "stopped"
    assert not lab.paths.socket.exists()


def test_without_a_worker_the_wait_has_an_end(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="SITE_WORKER_AWAY"):
        WorkerClient(tmp_path / "none", timeout_s=1, patience_s=0.1).ask(Message(kind="hello"))
    for address in ("tcp://host:1", "unix://relative", "/path", ""):
        with pytest.raises(Misconfigured, match="WORKER_ADDRESS"):
            socket_of(address)


def test_a_message_survives_the_socket_with_the_types_of_its_fields() -> None:
    message = Message(kind="step", payload=bytes(range(256)), fields={
        "yes": True, "no": False, "zero": 0, "low": -2**63, "high": 2**63 - 1, "real": 1.0,
        "text": "ünïcode", "empty": "",
    })
    again = from_wire(Envelope.FromString(to_wire(message).SerializeToString()))
    assert again == message
    assert [type(v) for v in again.fields.values()] == [type(v) for v in message.fields.values()]


def code_of(reply: Reply) -> str:
    assert isinstance(reply, SiteFailure) or reply.kind == ERROR, reply
    return reply.code if isinstance(reply, SiteFailure) else reply.text("code")
