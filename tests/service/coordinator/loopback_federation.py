"""A coordinator's folder and real SuperNodes with light hospitals, on loopback ports."""

from __future__ import annotations

import datetime
import ipaddress
import json
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from quadratic_hospital import small_plan, write_sites

from medunlearn_common.flower_environment import flower_environment
from medunlearn_common.plan import Plan, RunPlan, plan_template
from medunlearn_common.processes import Children, ChildSpec
from medunlearn_server.service.config import CoordinatorFolder, open_folder
from medunlearn_simulation.enrolment import enrol

HERE = Path(__file__).resolve().parent
INTEGRATION = HERE.parents[1] / "integration"
_DAY = datetime.timedelta(days=1)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Authority:
    """A small certificate authority of a test."""

    def __init__(self, name: str = "test federation") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self.name, self.key.public_key(), ca=True)

    def _sign(self, subject: x509.Name, public: Any, *, ca: bool = False, server: bool = False,
              days: int = 30) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.name)
            .public_key(public).serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY).not_valid_after(now + days * _DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            builder = builder.add_extension(x509.SubjectAlternativeName([
                x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            ]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, folder: Path, name: str, *, server: bool, key_name: str | None = None,
              days: int = 30) -> None:
        """``NAME.pem`` and ``NAME.key`` in ``folder``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), server=server, days=days)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.pem").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM))
        path = folder / f"{key_name or name}.key"
        path.write_bytes(key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()))
        path.chmod(0o600)

    def write(self, path: Path) -> None:
        """The root certificate."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))


def new_node_key(folder: Path, name: str) -> Path:
    """A P-384 key in OpenSSH form; returns the private file."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private = folder / f"{name}.key"
    private.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption()))
    private.chmod(0o600)
    (folder / f"{name}.pub").write_bytes(key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH))
    return private


@dataclass
class Federation:
    """Folders of a coordinator and of sites, and the sites' nodes."""

    root: Path
    plan: RunPlan
    sites: int = 3
    slow_s: float = 0.0
    authority: Authority = field(default_factory=Authority)
    nodes: dict[str, Children] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path = self.root / "coordinator"
        self.public, self.superlink, self.control, self.watch = free_ports(4)
        changes = {f"site_{i}": {"slow_s": self.slow_s} for i in range(self.sites)}
        self.site_folders = write_sites(self.root / "sites", self.sites, **changes)
        enrol(self.plan, run_folder=self.path, sites={
            folder: f"hospital-{i}" for i, folder in enumerate(self.site_folders)})
        self._write_coordinator()

    def _write_coordinator(self) -> None:
        tls = self.path / "tls"
        self.authority.write(tls / "ca.pem")
        self.authority.issue(tls, "server", server=True)
        self.authority.issue(tls, "control-client", server=False)
        (self.path / "coordinator.toml").write_text("\n".join((
            "[listen]", f'public = "127.0.0.1:{self.public}"',
            f'superlink = "127.0.0.1:{self.superlink}"', f'control = "127.0.0.1:{self.control}"',
            "[runs]", "retry_first_s = 0.5", "retry_longest_s = 4.0",
            "[watch]", "enabled = false", "",
        )))
        for index, folder in enumerate(self.site_folders):
            key = new_node_key(folder / "node", "node")
            public = key.with_suffix(".pub").read_bytes()
            nodes = self.path / "nodes"
            nodes.mkdir(exist_ok=True)
            (nodes / f"hospital-{index}.pub").write_bytes(public)

    @property
    def folder(self) -> CoordinatorFolder:
        """The coordinator's folder."""
        return open_folder(self.path)

    def plan_file(self) -> Path:
        """The plan as the file that is launched."""
        whole = Plan.model_validate(self.plan.model_dump(include=set(RunPlan.model_fields)))
        path = self.root / "plan.toml"
        path.write_text(plan_template(whole))
        return path

    # -- sites ---------------------------------------------------------------------------

    def start_light_nodes(self) -> None:
        """All sites' nodes in one process: see ``light_nodes``."""
        environment = flower_environment(home=self.root / "light" / "flwr")
        environment["PYTHONPATH"] = os.pathsep.join(
            (str(INTEGRATION), environment["PYTHONPATH"]))
        children = Children([ChildSpec(
            name="light-nodes", environment=environment, log_file=self.root / "light.log",
            first_delay_s=0.5, longest_delay_s=1.0, grace_s=1.0,
            command=(sys.executable, str(HERE / "light_nodes.py"), json.dumps({
                "superlink": f"127.0.0.1:{self.public}",
                "root": str(self.path / "tls" / "ca.pem"),
                "sites": [str(folder) for folder in self.site_folders],
            })),
        )])
        self.nodes["light"] = children
        children.start()

    def stop_nodes(self) -> None:
        """Stop them all, side by side."""
        threads = [threading.Thread(target=c.stop) for c in self.nodes.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def service_environment(self) -> dict[str, str]:
        """For the supervisor's own process."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def start_service(self) -> subprocess.Popen[bytes]:
        """``medunlearn coordinator serve`` as a process of its own."""
        log = (self.root / "serve.log").open("ab")
        with log:
            return subprocess.Popen(
                [sys.executable, "-m", "medunlearn_server.service.supervisor", str(self.path)],
                env=self.service_environment(), stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )


def three_sites(**sections: dict[str, object]) -> RunPlan:
    """A plan of three sites and few rounds."""
    federation = {"sites": 3, "min_sites": 3, "round_deadline_s": 60.0,
                  **sections.pop("federation", {})}
    return small_plan(federation=federation, **sections)
