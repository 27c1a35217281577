"""The control interface: gRPC with mutual TLS, beside the standard health service.

Guarantees:
    * Nobody speaks with it whose certificate the coordinator's own authority did not sign for
      clients: the TLS handshake fails before a byte of a request is read.
    * It only writes wishes: a directive in a run's folder and rows of the registry. What runs is
      the conductor's decision.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from medunlearn_common import __version__
from medunlearn_common.audit.kinds import name as is_name
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected, Transient
from medunlearn_common.processes import Children
from medunlearn_common.service import control_pb2 as wire
from medunlearn_common.service import control_pb2_grpc
from medunlearn_server.directives import shown_directive, write_directive
from medunlearn_server.jobs import NOW_FILE
from medunlearn_server.service.config import CoordinatorFolder
from medunlearn_server.service.control_tls import ControlTls
from medunlearn_server.service.gateway_process import SEEN_FILE
from medunlearn_server.service.launching import launch, publish
from medunlearn_server.service.node_keys import NodeKeys
from medunlearn_server.service.registration import Registration
from medunlearn_server.service.runs_db import RunRow, RunsDb
from medunlearn_server.watching.exchanges import read_exchange

_LOG = logging.getLogger("medunlearn.coordinator")
SERVICE: Final = "medunlearn.coordinator.v1.Control"
CODE_KEY, FAMILY_KEY, HINT_KEY = "medunlearn-code", "medunlearn-family", "medunlearn-hint-bin"
_MAX_MESSAGE_BYTES: Final = 4 << 20
_THREADS: Final = 4
_GRACE_S: Final = 2.0
_STATUS: Final[dict[type[MedunlearnError], grpc.StatusCode]] = {
    Transient: grpc.StatusCode.UNAVAILABLE, Rejected: grpc.StatusCode.INVALID_ARGUMENT,
}

_Answer = TypeVar("_Answer")
Handler = Callable[[Any, Any, grpc.ServicerContext], _Answer]


def _explained(handler: Handler[_Answer]) -> Handler[_Answer]:
    """Errors of ours travel with code, family and hint; any other is INTERNAL, without text."""

    @wraps(handler)
    def call(self: Any, request: Any, context: grpc.ServicerContext) -> _Answer:
        try:
            return handler(self, request, context)
        except MedunlearnError as error:
            context.set_trailing_metadata((
                (CODE_KEY, error.code), (FAMILY_KEY, type(error).__name__),
                (HINT_KEY, error.hint.encode("utf-8")),
            ))
            status = _STATUS.get(type(error), grpc.StatusCode.FAILED_PRECONDITION)
            context.abort(status, error.message)
        except Exception:
            _LOG.exception("a control call failed")
            context.abort(grpc.StatusCode.INTERNAL, "internal error; see the service's log")
        raise AssertionError("abort raises")

    return call


@dataclass(frozen=True, kw_only=True)
class Control(control_pb2_grpc.ControlServicer):
    """Answers the calls.

    Attributes:
        folder: The coordinator's.
        runs: The registry.
        children: The service's processes.
        registration: Whose nodes are let in.
        ready: Whether runs can be started.
        wake: Set when the conductor has something to look at.
        started: When the service began, seconds since 1970.
    """

    folder: CoordinatorFolder
    runs: RunsDb
    children: Children
    registration: Registration
    ready: Callable[[], bool]
    wake: threading.Event
    started: float

    @_explained
    def Launch(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Begin a run."""
        row = launch(
            self.folder, self.runs, request.plan, nonce=request.nonce,
            model_digest=request.model_digest, tokenizer_digest=request.tokenizer_digest,
        )
        self.wake.set()
        return self._shown(row)

    @_explained
    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        """All runs."""
        return wire.RunList(runs=[self._shown(row) for row in self.runs.list()])

    @_explained
    def Pause(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Pause after the round that is being asked."""
        row = self._in_state(request.run_id, "pending", "running", "paused")
        if row.mode == "publish":
            raise Misconfigured("RUN_STATE", f"run {row.run_id} is finished and is being published",
                                "`medunlearn coordinator stop` ends that; publish again later")
        return self._directed(row, "pause")

    @_explained
    def Stop(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Stop a run for good, or the publication of a finished one."""
        row = self._in_state(request.run_id, "pending", "running", "paused", "failed", "stopped")
        return self._directed(row, "stop")

    @_explained
    def Resume(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Go on with a paused run, or with one that failed for a reason that was mended."""
        row = self._in_state(request.run_id, "pending", "running", "paused", "failed")
        self._directed(row, "run")
        if row.state in ("paused", "failed"):
            row = self.runs.move(row.run_id, "pending")
            self.wake.set()
        return self._shown(row)

    @_explained
    def Publish(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Carry a finished run's adapter to the hospitals."""
        row = publish(self.folder, self.runs, request.run_id)
        self.wake.set()
        return self._shown(row)

    @_explained
    def Status(self, request: Any, context: grpc.ServicerContext) -> Any:
        """The service, its children, the sites and the runs."""
        registered, seen = self.registration.registered(), _json_file(
            self.folder.state / SEEN_FILE)
        sites = NodeKeys(self.folder.nodes).by_site()
        return wire.ServiceStatus(
            version=__version__, started=self.started, ready=self.ready(),
            children=[
                wire.Child(name=child.spec.name, state=child.state, pid=child.pid or 0,
                           restarts=child.restarts)
                for child in self.children
            ],
            sites=[
                wire.Site(site_id=site, registered=site in registered,
                          seen=float(seen.get(site, 0.0)))
                for site in sites
            ],
            runs=[self._shown(row) for row in self.runs.list()],
        )

    def _in_state(self, run_id: str, *states: str) -> RunRow:
        row = self.runs.get(run_id)
        if row.state not in states:
            raise Misconfigured("RUN_STATE", f"run {run_id} is {row.state}", {
                "stopped": "that is for good: launch its plan again",
                "finished": f"medunlearn coordinator publish {run_id} carries it to the hospitals",
            }.get(row.state, "`medunlearn coordinator status` says what can be done with it"))
        return row

    def _directed(self, row: RunRow, word: Any) -> Any:
        write_directive(self.folder.run(row.run_id), word)
        self.wake.set()
        return self._shown(row)

    def _shown(self, row: RunRow) -> Any:
        folder = self.folder.run(row.run_id)
        exchange = read_exchange(folder)
        return wire.Run(
            run_id=row.run_id, state=row.state, mode=row.mode, plan_digest=row.plan_digest,
            flower_run_id=row.flower_run_id, created=row.created, updated=row.updated,
            failure_code=row.failure_code, starts=row.starts,
            progress=_progress(_json_file(folder / NOW_FILE)),
            directive=shown_directive(folder),
            words=[
                wire.LastWord(site_id=site, kind=word.kind, code=word.code, at=word.at)
                for site, word in sorted(exchange.words.items())
            ] if exchange is not None else (),
        )


def _progress(now: dict[str, Any]) -> Any:
    """Where a run stands, for one whose note can be read: it is no record, and hides no run."""
    if not now:
        return None
    try:
        return wire.Progress(
            phase=str(now.get("phase", "")), next_round=int(now.get("round", 0)),
            rounds=int(now.get("rounds", 0)), epsilon=float(now.get("epsilon", 0.0)),
            connected=int(now.get("connected", 0)), asked=int(now.get("asked", 0)),
            missing=int(now.get("missing", 0)), since=float(now.get("since", 0.0)),
            at=float(now.get("at", 0.0)),
            waits_for=[site for site in now.get("waits_for", ()) if is_name(site)],
        )
    except (TypeError, ValueError, OverflowError):
        return None


def _json_file(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


class ControlServer:
    """The server around :class:`Control`."""

    def __init__(self, control: Control) -> None:
        """Bind.

        Raises:
            Misconfigured: CONTROL_PORT, and as :class:`ControlTls`.
        """
        folder = control.folder
        self._health = health.HealthServicer()
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS), maximum_concurrent_rpcs=64,
            options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                     ("grpc.so_reuseport", 0)],
        )
        control_pb2_grpc.add_ControlServicer_to_server(control, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        credentials = ControlTls(folder).credentials()
        try:
            self._server.add_secure_port(folder.config.listen.control, credentials)
        except RuntimeError as error:
            raise Misconfigured(
                "CONTROL_PORT", f"cannot listen on {folder.config.listen.control}",
                "another process has the port",
            ) from error

    def start(self) -> None:
        """Begin to answer."""
        self._server.start()

    def show(self, *, serving: bool) -> None:
        """What the health service says."""
        word = health_pb2.HealthCheckResponse.ServingStatus.Value(
            "SERVING" if serving else "NOT_SERVING")
        for service in ("", SERVICE):
            self._health.set(service, word)

    def stop(self) -> None:
        """Answer what is under way, then no more."""
        self.show(serving=False)
        self._server.stop(_GRACE_S).wait()


def now_s() -> float:
    """Seconds since 1970."""
    return time.time()
