"""The Unix socket between node and worker: its place, who may open it, what is on it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import grpc

from medunlearn_common.errors import Misconfigured
from medunlearn_common.messages import Message, Scalar
from medunlearn_common.service.worker_pb2 import Envelope, Field

PREFIX = "unix://"
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),  # sizes are bounded where envelopes are opened
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)


def to_wire(message: Message) -> Envelope:
    """A message as its protocol buffer."""
    return Envelope(
        kind=message.kind, payload=message.payload,
        fields=[_field(name, value) for name, value in message.fields.items()],
    )


def _field(name: str, value: Scalar) -> Field:
    if isinstance(value, bool):  # before int, which it is too
        return Field(name=name, flag=value)
    if isinstance(value, int):
        return Field(name=name, integer=value)
    if isinstance(value, float):
        return Field(name=name, real=value)
    return Field(name=name, text=value)


def from_wire(envelope: Envelope) -> Message:
    """Back from :func:`to_wire`; a field without a value is left out."""
    fields: dict[str, Scalar] = {}
    for field in envelope.fields:
        which = field.WhichOneof("value")
        if which is not None:
            fields[field.name] = getattr(field, which)
    return Message(kind=envelope.kind, fields=fields, payload=envelope.payload)


def opened_channel(socket: Path) -> grpc.Channel:
    """A channel to a socket that only this user can have made.

    Raises:
        Misconfigured: WORKER_SOCKET if another user's process could sit behind it.
        FileNotFoundError: If there is none, as while the worker is started.
    """
    require_own_socket(socket)
    credentials = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    return grpc.secure_channel(f"unix:{socket}", credentials, options=_OPTIONS)


def require_own_socket(socket: Path) -> None:
    """Refuse a socket whose folder or self is not this user's alone; raises like its caller."""
    folder, itself = socket.parent.lstat(), socket.lstat()
    private = stat.S_ISDIR(folder.st_mode) and not folder.st_mode & 0o077
    if not (private and stat.S_ISSOCK(itself.st_mode)
            and folder.st_uid == itself.st_uid == os.getuid()):
        raise _not_ours()


def listen(server: grpc.Server, socket: Path) -> None:
    """Bind to a fresh socket that nobody else can open (0600 in a folder of 0700).

    Raises:
        Misconfigured: WORKER_SOCKET if the folder is another's, or nothing can be bound there.
    """
    folder = socket.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise _not_ours()
    folder.chmod(0o700)
    with suppress(FileNotFoundError):
        socket.unlink()  # of a worker that died; a living one holds the lock
    before = os.umask(0o177)
    try:
        credentials = grpc.local_server_credentials(grpc.LocalConnectionType.UDS)
        server.add_secure_port(f"unix:{socket}", credentials)
        socket.chmod(0o600)
    except (RuntimeError, OSError) as error:
        raise Misconfigured("WORKER_SOCKET", "the worker's socket cannot be bound",
                            "choose a hospital folder with a shorter path") from error
    finally:
        os.umask(before)


def server_options() -> tuple[tuple[str, int], ...]:
    """Options of both ends."""
    return _OPTIONS


def _not_ours() -> Misconfigured:
    return Misconfigured(
        "WORKER_SOCKET", "the worker's socket, or its folder, is not this user's alone",
        "stop the service, remove the folder, and look for who made it",
    )
