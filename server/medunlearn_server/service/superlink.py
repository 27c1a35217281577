"""Flower's SuperLink and its executor as children, and the commands given to it.

The SuperLink listens on this machine only. Its executor is a process of its own that shows a
secret, so that nobody else can take a task (notes of decision 17). It finds exactly one program
on its PATH, which runs installed code alone (``service.serverapp_process``): whoever reaches the
SuperLink can start a Flower run, with a bundle of his own. The commands are Flower's own command
line: it is the interface that Flower keeps stable.
"""

from __future__ import annotations

import json
import secrets
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from medunlearn_common import __version__
from medunlearn_common.errors import Transient
from medunlearn_common.files import write_atomically
from medunlearn_common.flower_environment import flower_command, flower_environment
from medunlearn_common.processes import ChildSpec
from medunlearn_server.jobs import FOLDER_VARIABLE
from medunlearn_server.service.config import CoordinatorFolder, split_address
from medunlearn_server.service.loopback_tls import LoopbackTls

_CONNECTION: Final = "coordinator"
_SECRET_BYTES: Final = 32
_COMMAND_S: Final = 60.0
_GRACE_S: Final = 8.0
_POLL_TASKS_S: Final = 0.5
_APP_PROCESS: Final = "medunlearn_server.service.serverapp_process"
_BUNDLE: Final = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "medunlearn-stub"
version = "{__version__}"
description = "Names the installed medunlearn; brings no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "medunlearn"
fab-include = ["pyproject.toml"]

[tool.flwr.app.components]
serverapp = "medunlearn_server.flower_app:app"
clientapp = "medunlearn_client.flower_app:app"

[tool.flwr.app.config]
run-id = ""
attempt = 0
"""


@dataclass(frozen=True, kw_only=True)
class FlowerNode:
    """One registered node."""

    node_id: str
    status: str


class SuperLink:
    """Where one coordinator's SuperLink lies, how it is started, and what it is told."""

    def __init__(self, folder: CoordinatorFolder, tls: LoopbackTls) -> None:
        self._folder = folder
        self._tls = tls
        self._home = folder.state / "flwr"
        self._secret = folder.state / "superexec.secret"
        self._bundle = folder.state / "bundle"
        self._programs = folder.state / "bin"
        self.environment = flower_environment(
            home=self._home, more={FOLDER_VARIABLE: str(folder.path)}
        )

    def prepare(self) -> None:
        """Write secret, bundle, program and connection settings; a fresh secret each time.

        Raises:
            Transient: WRITE_FAILED.
        """
        write_atomically(self._secret, secrets.token_bytes(_SECRET_BYTES))
        write_atomically(self._bundle / "pyproject.toml", _BUNDLE.encode("utf-8"))
        (self._folder.state / "empty").mkdir(exist_ok=True)
        program = self._programs / "flwr-serverapp"
        write_atomically(program, (
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -m {_APP_PROCESS} "$@"\n').encode())
        program.chmod(0o700)
        # JSON strings are TOML strings.
        settings = "\n".join((
            "[superlink]", f'default = "{_CONNECTION}"', "",
            f"[superlink.{_CONNECTION}]",
            f"address = {json.dumps(self._folder.config.listen.superlink)}",
            f"root-certificates = {json.dumps(str(self._tls.certificate))}", "",
        ))
        write_atomically(self._home / "config.toml", settings.encode("utf-8"))

    def children(self) -> tuple[ChildSpec, ChildSpec]:
        """SuperLink and executor."""
        host, port = split_address(self._folder.config.listen.superlink)
        superlink = (
            flower_command("flower-superlink"), "--host", host, "--port", str(port),
            "--ssl-ca-certfile", str(self._tls.certificate),
            "--ssl-certfile", str(self._tls.certificate), "--ssl-keyfile", str(self._tls.key),
            "--enable-supernode-auth", "--isolation", "process",
            "--superexec-auth-secret-file", str(self._secret),
            "--database", str(self._folder.state / "superlink.db"),
            "--disable-runtime-dependency-installation",
        )
        executor = (
            flower_command("flower-superexec"),
            "--runtime-api-address", self._folder.config.listen.superlink,
            "--root-certificates", str(self._tls.certificate),
            "--superexec-auth-secret-file", str(self._secret),
        )
        # It has something to do once in a run; each look is a call and a write of the SuperLink.
        seldom = flower_environment(
            home=self._home, poll_tasks_s=_POLL_TASKS_S,
            more={FOLDER_VARIABLE: str(self._folder.path), "PATH": str(self._programs)})
        return (self._child("superlink", superlink),
                replace(self._child("superexec", executor), environment=seldom))

    def _child(self, name: str, command: tuple[str, ...]) -> ChildSpec:
        return ChildSpec(
            name=name, command=command, environment=self.environment, grace_s=_GRACE_S,
            log_file=self._folder.logs / f"{name}.log", folder=self._folder.state / "empty",
            longest_delay_s=15.0,
        )

    # -- commands ------------------------------------------------------------------------

    def nodes(self) -> tuple[FlowerNode, ...]:
        """All registered nodes; raises as :meth:`_command`."""
        found = self._command("supernode", "list", _CONNECTION)["nodes"]
        return tuple(
            FlowerNode(node_id=str(node["node-id"]), status=str(node["status"]))
            for node in found
        )

    def register(self, public_key: Path, *, name: str) -> str:
        """Let a node in; returns Flower's id of it."""
        return str(self._command(
            "supernode", "register", str(public_key), _CONNECTION, "--name", name
        )["node-id"])

    def unregister(self, node_id: str) -> None:
        """Shut a node out."""
        self._command("supernode", "unregister", node_id, _CONNECTION)

    def start_run(self, *, run_id: str, attempt: int) -> str:
        """Start a Flower run that carries ``run_id``; returns Flower's own id of it."""
        settings = f"run-id={json.dumps(run_id)} attempt={attempt}"
        answer = self._command("run", str(self._bundle), _CONNECTION, "--run-config", settings)
        return str(answer["run-id"])

    def stop_run(self, flower_run_id: str) -> None:
        """End a Flower run."""
        self._command("stop", flower_run_id, _CONNECTION)

    def _command(self, *arguments: str) -> Mapping[str, Any]:
        """One command of Flower.

        Raises:
            Transient: FLOWER_COMMAND if it fails or takes longer than a minute.
        """
        command = [flower_command("flwr"), *arguments, "--format", "json"]
        what = " ".join(arguments[:2])
        try:
            done = subprocess.run(
                command, env=self.environment, cwd=self._folder.state / "empty", timeout=_COMMAND_S,
                capture_output=True, stdin=subprocess.DEVNULL, check=False,
            )
            answer = json.loads(done.stdout)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise _failed(what, type(error).__name__) from error
        if done.returncode != 0 or not isinstance(answer, dict) or not answer.get("success"):
            why = answer.get("error-message", "") if isinstance(answer, dict) else ""
            raise _failed(what, str(why)[:200] or f"status {done.returncode}")
        return answer


def _failed(what: str, why: str) -> Transient:
    return Transient("FLOWER_COMMAND", f"flwr {what} failed: {why}",
                     "look at superlink.log in state/logs; it is tried again")
