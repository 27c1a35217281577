"""A hospital's own metrics and health, for its own people, on its own loopback.

    GET /metrics    for Prometheus
    GET /healthz    200 while the status file can be read and its worker's process is there
    GET /readyz     200 while the worker can answer, and the coordinator lets the node in

``python -m medunlearn_client.watching DIR`` reads ``DIR/state/status.json``, which the worker
writes after every message, ``node.json`` beside it, which the node writes, and the folder of plans
that wait for a person. It opens no record,
no ledger and no key, and there is no page: a hospital's people use ``medunlearn hospital
status``.
"""

from __future__ import annotations

import json
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from medunlearn_client.service.node_link import NodeLink
from medunlearn_common import __version__
from medunlearn_common.audit.kinds import code
from medunlearn_common.errors import Misconfigured
from medunlearn_common.loopback import run_app, split_loopback
from medunlearn_common.metrics import Sample, exposition
from medunlearn_common.service_log import exit_status
from medunlearn_common.service_log import run as run_logged

COMPONENT = "watch"
DEFAULT_ADDRESS = "127.0.0.1:9481"
STATES = ("starting", "idle", "answering", "stopping", "stopped")
_MAX_BYTES = 1 << 20
_MOST_CODES, _MOST_PLANS = 100, 1000


@dataclass(frozen=True, kw_only=True)
class HospitalView:
    """What is shown of a hospital: numbers and codes.

    Attributes:
        problem: Code of why the status cannot be read; empty otherwise.
        state: What the worker does; empty if unknown.
        alive: Whether the worker's process is there.
        last_at: When it last answered, seconds since 1970; 0 before.
        requests: Requests answered.
        errors: Answers that were refusals, by code.
        epsilon_spent: As its ledger has it; None without noise.
        model_loaded: Whether the model is in memory.
        gpu_memory_bytes: Held on the GPU.
        restarts: Restarts of the worker.
        plans_waiting: Plans that wait for a person.
        node: Code of why the coordinator does not answer the node; empty while it does, and
            before the first call.
    """

    problem: str = ""
    state: str = ""
    alive: bool = False
    last_at: float = 0.0
    requests: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    epsilon_spent: float | None = None
    model_loaded: bool = False
    gpu_memory_bytes: int = 0
    restarts: int = 0
    plans_waiting: int = 0
    node: str = ""

    @property
    def healthy(self) -> bool:
        """Whether the worker's process is there and its status can be read."""
        return not self.problem and self.alive

    @property
    def ready(self) -> bool:
        """Whether a request would reach it and be answered; the model is loaded with the first."""
        return self.healthy and self.state in ("idle", "answering") and not self.node

    @property
    def why(self) -> str:
        """Code of the first thing that is not as it should be."""
        if self.problem:
            return self.problem
        if not self.alive:
            return "WORKER_GONE"
        return "OK" if self.ready else self.node or "WORKER_NOT_READY"


def read_view(folder: Path) -> HospitalView:
    """The hospital as it is now; what cannot be read becomes a code."""
    waiting = _waiting(folder / "approvals")
    try:
        with (folder / "state" / "status.json").open("rb") as stream:
            value: dict[str, Any] = json.loads(stream.read(_MAX_BYTES))
        link = NodeLink.read(folder / "state" / "node.json")
        return replace(_parsed(value, waiting), node=link.code)
    except FileNotFoundError:
        return HospitalView(problem="STATUS_MISSING", plans_waiting=waiting)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, OverflowError,
            RecursionError):
        return HospitalView(problem="STATUS_DAMAGED", plans_waiting=waiting)


def _parsed(value: dict[str, Any], waiting: int) -> HospitalView:
    spent = value.get("epsilon_spent")
    errors = dict(list(value.get("errors", {}).items())[:_MOST_CODES])
    state = value.get("state")
    return HospitalView(
        state=state if state in STATES else "", alive=_alive(int(value.get("worker_pid", 0))),
        last_at=float(value.get("last_at", 0.0)), requests=int(value.get("requests", 0)),
        errors={name if code(name) else "UNNAMED": int(count) for name, count in errors.items()},
        epsilon_spent=float(spent) if spent is not None and isfinite(spent) else None,
        model_loaded=value.get("model_loaded") is True,
        gpu_memory_bytes=int(value.get("gpu_memory_bytes", 0)),
        restarts=int(value.get("restarts", 0)), plans_waiting=waiting,
    )


def _alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _waiting(folder: Path) -> int:
    """Files of plans that nobody decided on; who may decide is another module's matter."""
    count = 0
    try:
        for path in sorted(folder.glob("*.json"))[:_MOST_PLANS]:
            with path.open("rb") as stream:
                asked = json.loads(stream.read(_MAX_BYTES))
            count += isinstance(asked, dict) and asked.get("decision") == "waiting"
    except (OSError, ValueError, RecursionError):
        return count
    return count


def samples(view: HospitalView) -> Iterator[Sample]:
    """Every sample of the hospital."""
    yield "medunlearn_build", 1.0, {"version": __version__}
    yield "medunlearn_ready", float(view.ready), {}
    yield "medunlearn_hospital_up", float(view.healthy), {}
    yield "medunlearn_hospital_plans_waiting", float(view.plans_waiting), {}
    if view.problem:
        return
    if view.state:
        yield "medunlearn_hospital_state", 1.0, {"state": view.state}
    for name, value in (
        ("requests", view.requests), ("last_request_seconds", view.last_at or None),
        ("epsilon_spent", view.epsilon_spent), ("model_loaded", view.model_loaded),
        ("gpu_memory_bytes", view.gpu_memory_bytes), ("worker_restarts", view.restarts),
    ):
        yield f"medunlearn_hospital_{name}", None if value is None else float(value), {}
    for name, count in view.errors.items():
        yield "medunlearn_hospital_errors", float(count), {"code": name}


def application(read: Callable[[], HospitalView]) -> Starlette:
    """The application over ``read``."""

    def metrics(_request: Request) -> Response:
        return Response(exposition(samples(read())), media_type=CONTENT_TYPE_LATEST)

    def healthy(_request: Request) -> Response:
        view = read()
        return _told("OK" if view.healthy else view.why, view.healthy)

    def ready(_request: Request) -> Response:
        view = read()
        return _told(view.why, view.ready)

    def missing(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"code": "NOT_FOUND"}, status_code=404)

    def failed(_request: Request, _error: Exception) -> Response:
        return JSONResponse({"code": "INTERNAL_ERROR"}, status_code=500)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthy), Route("/readyz", ready)],
        exception_handlers={404: missing, Exception: failed},
    )


def _told(why: str, good: bool) -> Response:
    return JSONResponse({"code": why}, status_code=200 if good else 503)


def watch_address(folder: Path) -> str:
    """Where ``hospital.toml`` says it listens; the default where it says nothing.

    Raises:
        Misconfigured: HOSPITAL_CONFIG_SYNTAX, WATCH_ADDRESS.
    """
    try:
        found = tomllib.loads((folder / "hospital.toml").read_text(encoding="utf-8"))
        address = str(found.get("watch", {}).get("address", DEFAULT_ADDRESS))
    except FileNotFoundError:
        address = DEFAULT_ADDRESS
    except (OSError, ValueError, AttributeError) as error:
        raise Misconfigured("HOSPITAL_CONFIG_SYNTAX", "hospital.toml cannot be read",
                            "`medunlearn hospital doctor` says what is wrong with it") from error
    split_loopback(address)
    return address


def main(arguments: list[str]) -> int:
    """``DIR [ADDRESS]``; exit status 2 for what the caller can mend.

    Raises:
        Misconfigured: HOSPITAL_CONFIG_SYNTAX, WATCH_ADDRESS; all that comes later is logged.
    """
    folder = Path(arguments[0]) if arguments else Path()
    address = arguments[1] if len(arguments) > 1 else watch_address(folder)
    app = application(lambda: read_view(folder))
    return run_logged(
        folder / "state" / "logs", COMPONENT, lambda log: run_app(app, address, log=log))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:])))
