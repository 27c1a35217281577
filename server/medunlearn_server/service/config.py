"""What a coordinator's folder holds, and what ``coordinator.toml`` in it says."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from medunlearn_common.errors import Misconfigured

CONFIG_FILE = "coordinator.toml"
MAX_CONFIG_BYTES = 1 << 20
_HINT = "`medunlearn coordinator init` writes a folder with every key explained"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_MAX_PORT = 65_535


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[host]:port``.

    Raises:
        ValueError: If it is neither.
    """
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ValueError("write it as host:port")
    if not 1 <= int(port) <= _MAX_PORT:
        raise ValueError(f"a port is 1 to {_MAX_PORT}")
    return host, int(port)


def _address(value: str) -> str:
    split_address(value)
    return value


def _loopback(value: str) -> str:
    if split_address(value)[0] not in _LOOPBACK:
        raise ValueError("this port is for this machine only: use 127.0.0.1")
    return value


Address = Annotated[str, AfterValidator(_address)]
LoopbackAddress = Annotated[str, AfterValidator(_loopback)]


class _Section(BaseModel):
    """A frozen table that refuses keys it does not know; descriptions become comments."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FederationSection(_Section):
    """Which federation this coordinator leads, as its invitations say."""

    name: str = Field("federation", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
                      description="part of the fingerprint that hospitals compare: do not change")
    address: Address = Field(
        "localhost:9443", description="host:port at which hospitals reach this coordinator")


class ListenSection(_Section):
    """Who listens where. Only ``public`` is meant for hospitals."""

    public: Address = Field(
        "0.0.0.0:9443", description="TLS gateway: hospitals' nodes, and nothing else, reach it")
    superlink: LoopbackAddress = Field(
        "127.0.0.1:9092", description="Flower's SuperLink, on this machine only")
    control: Address = Field(
        "127.0.0.1:9440", description="control service (gRPC, mutual TLS); may be made public")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        ports = [split_address(a)[1] for a in (self.public, self.superlink, self.control)]
        if len(set(ports)) < len(ports):
            raise ValueError("public, superlink and control need three different ports")
        return self


class TlsSection(_Section):
    """Certificates; paths are relative to the folder."""

    names: tuple[str, ...] = Field(
        ("localhost", "127.0.0.1"), min_length=1,
        description="DNS names and IP addresses under which hospitals reach this coordinator")
    certificate: str = Field("tls/server.pem", description="certificate chain of the gateway")
    key: str = Field("tls/server.key", description="its key, mode 0600")
    ca: str = Field("tls/ca.pem", description="whom the control service's clients are signed by")
    control_certificate: str = Field("tls/server.pem", description="certificate of the control "
                                     "service, always signed by `ca`")
    control_key: str = Field("tls/server.key", description="its key, mode 0600")
    server_ca: str = Field("tls/ca.pem", description="whom the certificate is signed by: what "
                           "invitations carry; another file where an institution's authority "
                           "signed it")
    client_certificate: str = Field(
        "tls/control-client.pem", description="certificate of this folder's command line")
    client_key: str = Field("tls/control-client.key", description="its key, mode 0600")


class LimitsSection(_Section):
    """What the gateway lets one request cost."""

    max_request_mib: int = Field(512, ge=1, le=16_384, description="largest body of a request")
    max_response_mib: int = Field(512, ge=1, le=16_384, description="largest body of an answer")
    request_s: float = Field(600.0, gt=0.0, le=86_400.0, description="longest exchange")
    idle_s: float = Field(30.0, gt=0.0, le=3_600.0, description="longest silence within one")
    max_connections: int = Field(1024, ge=8, le=100_000, description="at one time; beyond it 503")
    max_per_site: int = Field(64, ge=4, le=10_000, description="exchanges of one hospital at one "
                              "time; beyond it 503")


class RunsSection(_Section):
    """How runs are carried on."""

    poll_s: float = Field(0.1, gt=0.0, le=60.0, description="pause between looks for answers")
    retry_first_s: float = Field(2.0, ge=0.0, le=600.0,
                                 description="pause before a run that died is started again")
    retry_longest_s: float = Field(60.0, gt=0.0, le=3_600.0,
                                   description="such pauses double up to this")
    start_deadline_s: float = Field(90.0, gt=0.0, le=3_600.0, description="a run that does not "
                                    "begin its work within this is started again")


class WatchSection(_Section):
    """Dashboard, metrics and health, read-only."""

    enabled: bool = Field(True, description="whether it is started with the service")
    address: LoopbackAddress = Field("127.0.0.1:9480", description="where it listens")


class CoordinatorConfig(_Section):
    """Contents of ``coordinator.toml``; unknown keys are errors."""

    federation: FederationSection = FederationSection()
    listen: ListenSection = ListenSection()
    tls: TlsSection = TlsSection()
    limits: LimitsSection = LimitsSection()
    runs: RunsSection = RunsSection()
    watch: WatchSection = WatchSection()


@dataclass(frozen=True, kw_only=True)
class CoordinatorFolder:
    """Names of everything in a coordinator's folder.

    Attributes:
        path: The folder, absolute; ``trust/`` lies in it.
        config: What its ``coordinator.toml`` says.
    """

    path: Path
    config: CoordinatorConfig

    def tls(self, name: str) -> Path:
        """File of a key of ``[tls]``."""
        return self.path / str(getattr(self.config.tls, name))

    @property
    def nodes(self) -> Path:
        """Public keys of the enrolled sites' nodes, ``SITE.pub`` each."""
        return self.path / "nodes"

    @property
    def state(self) -> Path:
        """What the service keeps for itself."""
        return self.path / "state"

    @property
    def logs(self) -> Path:
        """Logs of the service and its children."""
        return self.state / "logs"

    @property
    def runs_db(self) -> Path:
        """The durable registry of runs."""
        return self.state / "runs.db"

    @property
    def runs(self) -> Path:
        """One folder per run."""
        return self.path / "runs"

    def run(self, run_id: str) -> Path:
        """Folder of one run."""
        return self.runs / run_id

    @property
    def published(self) -> Path:
        """What hospitals are given, one folder per run."""
        return self.path / "published"


def read_config(path: Path) -> CoordinatorConfig:
    """Read a ``coordinator.toml``.

    Raises:
        Misconfigured: COORDINATOR_CONFIG_MISSING or COORDINATOR_CONFIG_INVALID, naming
            every offending key.
    """
    try:
        with path.open("rb") as stream:
            document = _parsed(stream.read(MAX_CONFIG_BYTES + 1), path.name)
    except OSError as error:
        raise Misconfigured(
            "COORDINATOR_CONFIG_MISSING", f"cannot read {path}: {error.strerror}", _HINT
        ) from error
    try:
        return CoordinatorConfig.model_validate(document)
    except ValidationError as error:
        complaints = "; ".join(
            f"{'.'.join(map(str, detail['loc'])) or path.name}: "
            f"{detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors(include_url=False)
        )
        raise _invalid(path.name, complaints) from error


def open_folder(path: Path) -> CoordinatorFolder:
    """A coordinator's folder; raises as :func:`read_config`."""
    path = path.resolve()
    return CoordinatorFolder(path=path, config=read_config(path / CONFIG_FILE))


def _parsed(data: bytes, name: str) -> dict[str, Any]:
    if len(data) > MAX_CONFIG_BYTES:
        raise _invalid(name, "it is larger than 1 MiB")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _invalid(name, "it is not valid TOML") from error


def _invalid(name: str, what: str) -> Misconfigured:
    return Misconfigured("COORDINATOR_CONFIG_INVALID", f"{name}: {what}", _HINT)
