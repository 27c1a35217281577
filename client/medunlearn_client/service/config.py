"""``hospital.toml``: how a hospital's service runs; what it accepts stands in ``policy.toml``.

Nothing here changes a number that leaves the hospital. Names of the files in a hospital's folder
are here too, so that every command and process agrees on them.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from medunlearn_client.policy import Digests
from medunlearn_common.errors import Misconfigured
from medunlearn_common.plan import RuntimeOptions
from medunlearn_common.plan.reading import complaints
from medunlearn_common.plan.sections import Section
from medunlearn_common.plan.template import section_text

CONFIG_FILE = "hospital.toml"
MAX_CONFIG_BYTES = 1 << 18
# sun_path holds 108 bytes with its NUL; gRPC appends nothing, some slack for a ".lock".
MAX_SOCKET_PATH = 100
_HINT = f"mend {CONFIG_FILE}; the one that `medunlearn hospital init` wrote explains every key"
Address = Annotated[
    str, Field(pattern=r"^([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$")]
Loopback = Annotated[str, Field(pattern=r"^(127\.[0-9.]{5,11}|localhost|\[::1\]):[0-9]{1,5}$")]


class CoordinatorSection(Section):
    """Whom the node connects to."""

    address: Address = Field("127.0.0.1:9443", description="host:port of the coordinator's gateway")


class NodeSection(Section):
    """The Flower node, which carries sealed bytes and never sees a record."""

    runtime: Loopback = Field(
        "127.0.0.1:9494", description="loopback address of the node's own executor; nothing "
        "outside this machine may reach it")
    restart_delay_s: float = Field(
        20.0, ge=0.0, le=600.0, description="wait before a dead node is started anew; the "
        "coordinator takes it back only once it has missed it, which takes up to a minute")
    request_timeout_s: float = Field(
        3600.0, gt=0.0, description="longest wait for the worker's answer to one request")
    bundles: Digests = Field(
        (), description="SHA-256 of the coordinator's app bundles that are accepted; empty accepts "
        "any, as long as it is the stub without code")
    insecure: bool = Field(
        False, description="connect without TLS: loopback rehearsals only")


class WorkerSection(Section):
    """The worker that keeps model and data open between messages."""

    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:[0-9]{1,2})?)$",
                        description="auto, cpu, cuda or cuda:N")
    gpu_memory_fraction: float = Field(
        1.0, gt=0.0, le=1.0, description="share of the GPU's memory that may be taken")
    memory_limit_gib: float = Field(
        0.0, ge=0.0, description="most memory of the process besides the GPU's, in GiB; 0 sets no "
        "limit")
    threads: int = Field(1, ge=1, le=256, description="CPU threads for linear algebra")
    microbatch_tokens: int = Field(
        8192, ge=1, description="most tokens (padding included) per forward pass when a unit's "
        "texts are counted: bounds memory; gradients are taken record by record")
    reference_cache_mib: int = Field(
        256, ge=0, description="memory for the reference model's outputs, in MiB")
    run_idle_s: float = Field(
        600.0, ge=0.0, description="a run that asked nothing for so long makes room for another "
        "coordinator's")


class ApprovalSection(Section):
    """Whether a person looks at each plan first."""

    required: bool = Field(
        False, description="wait for `medunlearn hospital approve DIGEST --by NAME` before any "
        "record is opened for a plan")


class WatchSection(Section):
    """Metrics and health of this hospital, for its own people."""

    enabled: bool = Field(True, description="serve them")
    address: Loopback = Field("127.0.0.1:9481", description="where, on this machine only")


class HospitalConfig(Section):
    """Contents of ``hospital.toml``; unknown keys are errors."""

    schema_version: Literal[1] = 1
    coordinator: CoordinatorSection = CoordinatorSection()
    node: NodeSection = NodeSection()
    worker: WorkerSection = WorkerSection()
    approval: ApprovalSection = ApprovalSection()
    watch: WatchSection = WatchSection()

    def runtime(self) -> RuntimeOptions:
        """What the worker passes to the hospital."""
        worker = self.worker
        return RuntimeOptions(
            runner="flower", device=worker.device, microbatch_tokens=worker.microbatch_tokens,
            reference_cache_bytes=worker.reference_cache_mib << 20, threads=worker.threads,
        )


@dataclass(frozen=True, kw_only=True)
class HospitalPaths:
    """Where things lie in a hospital's folder."""

    folder: Path

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / CONFIG_FILE

    @property
    def ca(self) -> Path:
        """Certificate of the federation's CA."""
        return self.folder / "tls" / "ca.pem"

    @property
    def node_key(self) -> Path:
        """Private key of the Flower node (ECDSA P-384, OpenSSH form)."""
        return self.folder / "node" / "node.key"

    @property
    def state(self) -> Path:
        """What may be deleted while the service is stopped."""
        return self.folder / "state"

    @property
    def logs(self) -> Path:
        """Logs of the service's processes; they never leave the hospital."""
        return self.state / "logs"

    @property
    def status(self) -> Path:
        """What the worker last did."""
        return self.state / "status.json"

    @property
    def link(self) -> Path:
        """Whether the node is let in."""
        return self.state / "node.json"

    @property
    def approvals(self) -> Path:
        """Plans that wait for a person, and their decisions."""
        return self.folder / "approvals"

    @property
    def socket(self) -> Path:
        """The worker's Unix socket: in the state folder, or short where that is too long."""
        return self._socket("worker.sock")

    @property
    def starter(self) -> Path:
        """The Unix socket of what starts a process per message, beside the worker's."""
        return self._socket("starter.sock")

    def _socket(self, name: str) -> Path:
        path = self.state / "socket" / name
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        # In /tmp itself, and not one folder below: there nobody renames another's folder.
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
        own = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return runtime / f"medunlearn-{os.getuid()}-{own}" / name


def read_hospital_config(folder: Path) -> HospitalConfig:
    """Read ``hospital.toml`` of a hospital's folder.

    Raises:
        Misconfigured: HOSPITAL_CONFIG_MISSING, HOSPITAL_CONFIG_SYNTAX, or HOSPITAL_CONFIG_INVALID
            naming every wrong key.
    """
    path = folder / CONFIG_FILE
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Misconfigured(
            "HOSPITAL_CONFIG_MISSING", f"cannot read {CONFIG_FILE}: {error.strerror}",
            "name a folder that `medunlearn hospital init` made",
        ) from error
    if len(data) > MAX_CONFIG_BYTES:
        raise Misconfigured("HOSPITAL_CONFIG_SYNTAX", f"{CONFIG_FILE} is larger than 256 KiB",
                            _HINT)
    try:
        return HospitalConfig.model_validate(tomllib.loads(data.decode("utf-8")))
    except ValidationError as error:
        wrong = "; ".join(complaints(error, HospitalConfig)[:20])
        raise Misconfigured("HOSPITAL_CONFIG_INVALID", f"{CONFIG_FILE}: {wrong}", _HINT) from error
    except (ValueError, RecursionError) as error:
        raise Misconfigured("HOSPITAL_CONFIG_SYNTAX", f"{CONFIG_FILE} is not valid TOML: "
                            f"{error}", _HINT) from error


def hospital_template(config: HospitalConfig | None = None) -> str:
    """Commented TOML of ``config`` (the defaults if None); parsing it gives an equal one."""
    config = config or HospitalConfig()
    parts = ["# How this hospital's service runs. Unknown keys are errors.",
             f"schema_version = {config.schema_version}"]
    for name in type(config).model_fields:
        section = getattr(config, name)
        if isinstance(section, Section):
            parts.append(section_text(name, section))
    return "\n".join(parts) + "\n"
