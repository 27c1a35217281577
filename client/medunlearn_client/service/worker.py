"""``python -m medunlearn_client.service.worker FOLDER``: keeps model and data open.

Answers sealed requests over a Unix socket, one after another, in one thread. The supervisor
(``service.node``) starts it anew when it dies; what it owes is in the hospital's journals.

Guarantees:
    * Only processes of the hospital's own user reach it (socket 0600 in a folder of 0700).
    * One worker a hospital: a second one does not start.
    * SIGTERM finishes the answer under way and refuses further requests with a code, however many
      wait for their turn.
    * What leaves is what :class:`SealedHospital` seals, or a bare code: no exception's text.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from medunlearn_client.bundle_check import require_installed_code
from medunlearn_client.service.approvals import Approvals
from medunlearn_client.service.config import (
    HospitalConfig,
    HospitalPaths,
    read_hospital_config,
)
from medunlearn_client.service.gate import SITE_BUSY, RunGate
from medunlearn_client.service.status import SiteStatus, WorkerState
from medunlearn_client.service.wire import from_wire, listen, server_options, to_wire
from medunlearn_common import logs
from medunlearn_common.code_digest import installed_code_digest
from medunlearn_common.envelope import SEALED
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.files import held_alone
from medunlearn_common.keeping.stopped import WORKER_LOCK
from medunlearn_common.ledger import PrivacyLedger
from medunlearn_common.log_fields import event
from medunlearn_common.logs import EventLog
from medunlearn_common.messages import ERROR, EVALUATE, STEP, VOTE, Message
from medunlearn_common.processes import on_termination
from medunlearn_common.service.worker_pb2 import (
    DrainReply,
    DrainRequest,
    Envelope,
    LookReply,
    LookRequest,
)
from medunlearn_common.service.worker_pb2_grpc import (
    WorkerServicer,
    add_WorkerServicer_to_server,
)
from medunlearn_common.trust_folder import POLICY_FILE, TRUST_FOLDER

if TYPE_CHECKING:
    from medunlearn_client.hospital import Hospital
    from medunlearn_client.sealed_hospital import SealedHospital

_LOG = logging.getLogger("medunlearn.worker")
INTERNAL_ERROR, SITE_STOPPING = "INTERNAL", "SITE_STOPPING"
EXIT_MENDABLE = 2
_SPENDS = frozenset((VOTE, STEP, EVALUATE))
# Each waiting answer holds a thread; looks and drains need one that none can hold.
_MOST_WAITING = 24
_GRPC_THREADS = _MOST_WAITING + 4
_LOOK_S = 0.2


class LocalSite:
    """The opened hospital with what the service adds; used from one thread."""

    def __init__(self, folder: Path, config: HospitalConfig) -> None:
        # Late: torch and transformers, several seconds, behind the checks of main().
        from medunlearn_client.hospital import open_hospital
        from medunlearn_client.service.limits import apply_limits, device_name
        from medunlearn_client.site_audit import SiteAudit
        from medunlearn_common.entropy import OsEntropy

        self.paths, self._config = HospitalPaths(folder=folder), config
        apply_limits(config.worker)
        self.hospital: Hospital = open_hospital(folder, config.runtime())
        audit = SiteAudit(folder, site_id=self.hospital.site_id, entropy=OsEntropy())
        self.gate = RunGate(
            audit=audit, idle_s=config.worker.run_idle_s, told=self._told,
            approvals=Approvals(self.paths.approvals) if config.approval.required else None,
        )
        self._policy = b""
        self._sealed = self._seal()
        self.status = self._first_status(device_name(config.worker))

    def _seal(self) -> SealedHospital:
        """Behind the envelopes, under the policy that lies there now; the model stays loaded."""
        from medunlearn_client.sealed_hospital import seal_hospital

        policy = (self.paths.folder / TRUST_FOLDER / POLICY_FILE).read_bytes()
        sealed = seal_hospital(self.paths.folder, self.hospital, gate=self.gate)
        self._policy = policy
        return sealed

    def handle(self, message: Message) -> Message:
        """Answer one message; never raises."""
        self.note(state="answering")
        try:
            if (self.paths.folder / TRUST_FOLDER / POLICY_FILE).read_bytes() != self._policy:
                before, self._sealed = self._sealed, self._seal()
                before.close()
            answer = self._sealed.handle(message)
        except MedunlearnError as error:
            _LOG.error("%s", error)
            answer = bare(error.code)
        except Exception:
            _LOG.exception("a request could not be handled")
            answer = bare(INTERNAL_ERROR)
        if answer.kind == ERROR:
            self._count(str(answer.fields.get("code", INTERNAL_ERROR)))
        return answer

    def close(self) -> None:
        """Give the files back; every message from now on is refused."""
        self._sealed.close()

    # -- status --------------------------------------------------------------------------

    def _first_status(self, device: str) -> SiteStatus:
        status = SiteStatus(site_id=self.hospital.site_id)
        try:
            before = SiteStatus.read(self.paths.status)
            status = replace(before, site_id=self.hospital.site_id, restarts=before.restarts + 1)
        except MedunlearnError:
            _LOG.info("the first worker of this folder")
        return replace(status, worker_pid=os.getpid(), device=device, model_loaded=False,
                       gpu_memory_bytes=0)

    def _told(self, run: str, kind: str, code: str) -> None:
        self.status = replace(self.status, run_id=run, last_kind=kind)
        if code:
            _LOG.warning("run %s: refused %s, %s", run, kind, code, extra=event(
                "request_refused", run_id=run, kind=kind, code=code))
            self._count(code)
        else:
            _LOG.info("run %s: answered %s", run, kind, extra=event(
                "request_answered", run_id=run, kind=kind))

    def _count(self, code: str) -> None:
        errors = {**self.status.errors}
        errors[code] = errors.get(code, 0) + 1
        self.status = replace(self.status, errors=errors)

    def note(self, *, state: WorkerState) -> None:
        """Write the status; one that cannot be written stops nothing."""
        try:
            self.status = replace(self.status, state=state)
            self.status.write(self.paths.status)
        except MedunlearnError as error:
            _LOG.error("%s", error)

    def settle(self, now: float) -> None:
        """After an answer went out: what it changed, then idle."""
        from medunlearn_client.service.limits import gpu_memory_bytes

        status = replace(
            self.status, requests=self.status.requests + 1, last_at=now,
            model_loaded=self.hospital.is_open,
            gpu_memory_bytes=gpu_memory_bytes(self._config.worker),
        )
        if status.last_kind in _SPENDS:
            status = replace(status, epsilon_spent=self._spent(status.run_id))
        self.status = status
        self.note(state="idle")

    def _spent(self, run_id: str) -> float | None:
        try:
            ledger = PrivacyLedger.existing(self.paths.folder / "ledger.db")
            for run in ledger.runs():
                if run.run_id == run_id and run.budget is not None:
                    return ledger.epsilon(run_id=run_id, delta=run.budget.delta)
        except MedunlearnError as error:
            _LOG.error("%s", error)
        return None


class Worker(WorkerServicer):
    """The gRPC service: takes requests from any thread, answers them in one."""

    def __init__(
        self, site: LocalSite, *, clock: Callable[[], float] = time.time,
        log: EventLog | None = None,
    ) -> None:
        self._site = site
        self._clock = clock
        self._log = log
        # One thread, always the same: sums do not depend on which thread took a request.
        self._turns = ThreadPoolExecutor(max_workers=1, thread_name_prefix="answers")
        self._stopping = threading.Event()
        self._room = threading.BoundedSemaphore(_MOST_WAITING)

    def Answer(self, request: Envelope, context: grpc.ServicerContext) -> Envelope:
        """One request in its turn. A caller that went away changes nothing: it is journalled."""
        if not self._room.acquire(blocking=False):
            return to_wire(bare(SITE_BUSY))
        try:
            message = from_wire(request)
            answered: Future[Message] = self._turns.submit(self._in_turn, message)
            return to_wire(answered.result())
        finally:
            self._room.release()

    def _in_turn(self, message: Message) -> Message:
        if self._stopping.is_set():
            return bare(SITE_STOPPING)
        began = self._clock()
        answer = self._site.handle(message)
        now = self._clock()
        self._turns.submit(self._settle, message.kind, now, now - began)  # not in the answer's way
        return answer

    def _settle(self, kind: str, now: float, seconds: float) -> None:
        if self._log is not None:
            inner = self._site.status.last_kind if kind == SEALED else kind
            self._log.info("request_timed", kind=inner, seconds=round(seconds, 4))
        try:
            self._site.settle(now)
        except Exception:  # nobody asks for what became of it
            _LOG.exception("what an answer changed could not be noted")
            self._site.note(state="idle")

    def Look(self, request: LookRequest, context: grpc.ServicerContext) -> LookReply:
        """At once, also while an answer is computed."""
        status = self._site.status
        return LookReply(site_id=status.site_id, state=status.state, pid=os.getpid(),
                         code_digest=installed_code_digest())

    def Drain(self, request: DrainRequest, context: grpc.ServicerContext) -> DrainReply:
        """See :meth:`drain`."""
        self.drain()
        return DrainReply()

    def drain(self) -> None:
        """Refuse what comes, and return once nothing is under way."""
        self._stopping.set()
        self._turns.submit(self._site.note, state="stopping").result()


def bare(code: str) -> Message:
    """An unsigned refusal."""
    return Message(kind=ERROR, fields={"code": code})


def serve(folder: Path, stopping: threading.Event, log: EventLog | None = None) -> None:
    """Open the hospital and answer until ``stopping`` is set.

    Raises:
        Misconfigured: WORKER_RUNNING, WORKER_SOCKET, HOSPITAL_CONFIG_, BUNDLE_ and other codes.
    """
    paths = HospitalPaths(folder=folder)
    config = read_hospital_config(folder)
    require_installed_code()
    running = Misconfigured("WORKER_RUNNING", "another worker serves this hospital's folder",
                            "stop the other service first")
    with held_alone(paths.state / WORKER_LOCK, running), \
            closing(LocalSite(folder, config)) as site:
        _answer(site, stopping, log)


def _answer(site: LocalSite, stopping: threading.Event, log: EventLog | None) -> None:
    worker = Worker(site, log=log)
    server = grpc.server(ThreadPoolExecutor(max_workers=_GRPC_THREADS), options=server_options())
    add_WorkerServicer_to_server(worker, server)
    listen(server, site.paths.socket)
    server.start()
    site.note(state="idle")
    _LOG.info("%s answers on its socket", site.status.site_id,
              extra=event("worker_ready", site=site.status.site_id))
    while not stopping.wait(_LOOK_S):  # a signal may wake another thread than this one
        pass
    worker.drain()
    server.stop(grace=5.0).wait()
    site.status = replace(site.status, worker_pid=0)
    site.note(state="stopped")


def main() -> int:
    """The process; its exit status says whether starting it anew may help."""
    os.umask(0o077)
    folder = Path(sys.argv[1]).resolve()
    stopping = threading.Event()
    on_termination(stopping)
    try:
        log = logs.start(HospitalPaths(folder=folder).logs, component="worker")
        serve(folder, stopping, log)
    except Misconfigured as error:
        _LOG.error("%s", error)
        return EXIT_MENDABLE
    except MedunlearnError as error:
        _LOG.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
