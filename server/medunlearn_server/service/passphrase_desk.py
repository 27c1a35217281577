"""Hands the passphrase of the coordinator's key to the ServerApp, and to nobody else.

The service gets it in ``MEDUNLEARN_PASSPHRASE`` where no file holds it. Of its processes only the
ServerApp opens the key, and that one is started by Flower's executor, which would need the
variable itself to pass it on. So none of them gets it: the ServerApp asks for it over a Unix
socket in the service's own folder.

Guarantees:
    Only a process of the service's own user whose parent is the executor is answered; the kernel
    says who asks (``SO_PEERCRED``). The passphrase is in no child's environment and in no file.

What remains: who may read the memory of processes of this user reads it in the supervisor's.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from medunlearn_common.errors import Transient
from medunlearn_common.identity.key_files import hold_passphrase
from medunlearn_common.processes import process_stat

SOCKET: Final = "passphrase.sock"
_MOST_BYTES: Final = 4096
_PATIENCE_S: Final = 10.0
_LOOK_S: Final = 0.5


class PassphraseDesk:
    """One thread that answers."""

    def __init__(
        self, state: Path, passphrase: bytes, *, executor: Callable[[], int | None]
    ) -> None:
        """Listen; nobody is answered before :meth:`start`.

        Args:
            state: The service's folder for its own files.
            passphrase: What is handed out.
            executor: Process id of the executor now.

        Raises:
            Transient: PASSPHRASE_SOCKET.
        """
        self._passphrase = passphrase
        self._executor = executor
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._answer, name="passphrase", daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_LOOK_S)
        try:
            (state / SOCKET).unlink(missing_ok=True)
            with _short(state) as address:
                self._socket.bind(address)
            (state / SOCKET).chmod(0o600)
            self._socket.listen(4)
        except OSError as error:
            raise Transient("PASSPHRASE_SOCKET", f"cannot listen on {SOCKET}: {error.strerror}",
                            "the folder's state/ must be writable") from error

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)
        self._socket.close()

    def _answer(self) -> None:
        while not self._stopping.is_set():
            with suppress(OSError):  # nobody asked, or who asked went away
                asking, _ = self._socket.accept()
                with asking:
                    asking.settimeout(_PATIENCE_S)
                    if self._may(asking):
                        asking.sendall(self._passphrase)

    def _may(self, asking: socket.socket) -> bool:
        size = struct.calcsize("3i")
        pid, uid, _ = struct.unpack(
            "3i", asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        executor = self._executor()
        return uid == os.geteuid() and executor is not None and _parent_of(pid) == executor


def take_passphrase(state: Path) -> None:
    """In the ServerApp: hold what the service hands out, if it has any to hand out.

    Raises:
        Transient: PASSPHRASE_SOCKET if it does not answer.
    """
    if not (state / SOCKET).exists():
        return  # a file holds it
    try:
        with socket.socket(socket.AF_UNIX) as asking, _short(state) as address:
            asking.settimeout(_PATIENCE_S)
            asking.connect(address)
            found = b""
            while len(found) < _MOST_BYTES and (part := asking.recv(_MOST_BYTES)):
                found += part
    except OSError as error:
        raise Transient("PASSPHRASE_SOCKET", "the service does not hand out the passphrase",
                        "it is asked again at the next start") from error
    if found:
        hold_passphrase(found)


@contextmanager
def _short(state: Path) -> Iterator[str]:
    """An address of the socket that is short whatever the folder's path is (108 bytes at most)."""
    folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)


def _parent_of(pid: int) -> int:
    fields = process_stat(pid)
    return -1 if fields is None else int(fields[1])
