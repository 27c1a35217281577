"""Asks the worker, and asks again when it died with the question: answers are journalled.

Imported by the ClientApp's process, which lives for one message: nothing heavy here.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import grpc

from medunlearn_client.service.wire import PREFIX, from_wire, opened_channel, to_wire
from medunlearn_common.errors import Misconfigured, Transient
from medunlearn_common.messages import Message
from medunlearn_common.service.worker_pb2 import (
    DrainRequest,
    LookReply,
    LookRequest,
)
from medunlearn_common.service.worker_pb2_grpc import WorkerStub

# A request that kills the worker every time is given back, not repeated for ever.
MAX_DEATHS = 3
# How long the worker may take to be there: it imports torch first.
PATIENCE_S = 180.0
_PAUSE_S = 0.05


class WorkerClient:
    """The node's end of the socket."""

    def __init__(self, socket: Path, *, timeout_s: float, patience_s: float = PATIENCE_S) -> None:
        self._socket = socket
        self._timeout_s = timeout_s
        self._patience_s = patience_s

    def ask(self, message: Message) -> Message:
        """The worker's answer, whatever number of workers it took.

        The same request again gets the same bytes from the hospital's journals, so that asking
        twice costs neither privacy nor the round.

        Raises:
            Transient: SITE_WORKER_AWAY if none is there in time, SITE_WORKER_SILENT if it does
                not answer in time, SITE_WORKER_LOST if the request ended ``MAX_DEATHS`` workers.
            Misconfigured: WORKER_SOCKET.
        """
        deadline = time.monotonic() + self._timeout_s
        for _ in range(MAX_DEATHS):
            with self._connected() as channel:
                remaining = max(0.001, deadline - time.monotonic())
                try:
                    return from_wire(WorkerStub(channel).Answer(to_wire(message),
                                                                timeout=remaining))
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                        raise _transient("SILENT", "gave no answer in time") from None
                    if error.code() != grpc.StatusCode.UNAVAILABLE:
                        raise _transient("LOST", "broke off an answer") from None
        raise _transient("LOST", f"ended {MAX_DEATHS} times over one request")

    def look(self) -> LookReply:
        """What the worker is doing; raises like :meth:`ask`."""
        with self._connected() as channel:
            try:
                found: LookReply = WorkerStub(channel).Look(LookRequest(), timeout=5.0)
                return found
            except grpc.RpcError:
                raise _transient("AWAY", "does not answer") from None

    def drain(self) -> None:
        """Return once the answer under way is given, or no worker is there to give one."""
        with suppress(Transient, grpc.RpcError), self._connected() as channel:
            WorkerStub(channel).Drain(DrainRequest(), timeout=self._timeout_s)

    def _connected(self) -> grpc.Channel:
        deadline = time.monotonic() + self._patience_s
        while True:
            with suppress(FileNotFoundError):
                channel = opened_channel(self._socket)
                with suppress(grpc.FutureTimeoutError):
                    grpc.channel_ready_future(channel).result(timeout=1.0)
                    return channel
                channel.close()
            if time.monotonic() >= deadline:
                raise _transient("AWAY", "is not there")
            time.sleep(_PAUSE_S)


def socket_of(address: str) -> Path:
    """The path in ``unix:///…``.

    Raises:
        Misconfigured: WORKER_ADDRESS for anything that is not such an address.
    """
    path = Path(address.removeprefix(PREFIX))
    if not address.startswith(PREFIX) or not path.is_absolute():
        raise Misconfigured("WORKER_ADDRESS", "the worker's address is no unix:///path",
                            "start the node with `medunlearn hospital serve`")
    return path


def _transient(what: str, message: str) -> Transient:
    return Transient(f"SITE_WORKER_{what}", f"the hospital's worker {message}",
                     "it is started anew by itself; see state/logs/worker.private.log")
