"""The command line's side of the control interface."""

from __future__ import annotations

import secrets
from types import TracebackType
from typing import Any, Final, Self

import grpc

from medunlearn_common.errors import FAMILIES, MedunlearnError, Misconfigured, Transient
from medunlearn_common.service import control_pb2 as wire
from medunlearn_common.service import control_pb2_grpc
from medunlearn_server.service.config import CoordinatorFolder, split_address
from medunlearn_server.service.control import CODE_KEY, FAMILY_KEY, HINT_KEY

_DEADLINE_S: Final = 20.0
_ANY_HOST: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class ControlClient:
    """Speaks with the service of ``folder``; a context manager.

    Every call raises what the service raised, or Transient CONTROL_UNREACHABLE.
    """

    def __init__(self, folder: CoordinatorFolder, *, address: str | None = None) -> None:
        """Prepare; nothing is sent yet.

        Raises:
            Misconfigured: CONTROL_CERTIFICATE.
        """
        try:
            credentials = grpc.ssl_channel_credentials(
                root_certificates=folder.tls("ca").read_bytes(),
                private_key=folder.tls("client_key").read_bytes(),
                certificate_chain=folder.tls("client_certificate").read_bytes(),
            )
        except OSError as error:
            raise Misconfigured(
                "CONTROL_CERTIFICATE", f"cannot read {error.filename}",
                "run this as the user who owns the coordinator's folder",
            ) from error
        host, port = split_address(address or folder.config.listen.control)
        host = _ANY_HOST.get(host, host)
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.address = target
        self._channel = grpc.secure_channel(target, credentials)
        self._stub = control_pb2_grpc.ControlStub(self._channel)

    def launch(self, plan: bytes, *, model_digest: str = "", tokenizer_digest: str = "",
               nonce: str | None = None) -> Any:
        """Begin a run with a plan file's bytes."""
        return self._call(self._stub.Launch, wire.LaunchRequest(
            plan=plan, nonce=nonce or secrets.token_hex(16), model_digest=model_digest,
            tokenizer_digest=tokenizer_digest,
        ))

    def runs(self) -> list[Any]:
        """All runs, the oldest first."""
        return list(self._call(self._stub.List, wire.ListRequest()).runs)

    def status(self) -> Any:
        """The service as it is."""
        return self._call(self._stub.Status, wire.StatusRequest())

    def pause(self, run_id: str) -> Any:
        """Pause a run."""
        return self._call(self._stub.Pause, wire.RunRequest(run_id=run_id))

    def resume(self, run_id: str) -> Any:
        """Go on with a run."""
        return self._call(self._stub.Resume, wire.RunRequest(run_id=run_id))

    def stop(self, run_id: str) -> Any:
        """Stop a run for good."""
        return self._call(self._stub.Stop, wire.RunRequest(run_id=run_id))

    def publish(self, run_id: str) -> Any:
        """Carry a finished run's adapter out."""
        return self._call(self._stub.Publish, wire.RunRequest(run_id=run_id))

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=_DEADLINE_S)
        except grpc.RpcError as error:
            raise self._translated(error) from error

    def _translated(self, error: Any) -> MedunlearnError:
        facts = dict(error.trailing_metadata() or ())
        family = FAMILIES.get(str(facts.get(FAMILY_KEY, "")))
        if family is not None:
            hint = facts.get(HINT_KEY, b"")
            return family(
                str(facts.get(CODE_KEY, "")), str(error.details()),
                hint.decode("utf-8", "replace") if isinstance(hint, bytes) else str(hint),
            )
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return Transient(
                "CONTROL_UNREACHABLE", f"no coordinator's service answers at {self.address}",
                "start it with `medunlearn coordinator serve`; `doctor` checks certificates",
            )
        return Transient("CONTROL_FAILED", f"the service failed ({error.code().name})",
                         "its log in state/logs says why")

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
