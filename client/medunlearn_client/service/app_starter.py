"""``python -m medunlearn_client.service.app_starter FOLDER``: forks the process of each message.

Flower answers every message in a process of its own, and such a process imports for a second of
processor time before it does some hundredths of a second of work. This one has imported
everything once, and forks. ``service.app_caller``, which the executor starts, asks it to over a
Unix socket and waits; nothing but the command line's arguments goes that way.

Guarantees:
    * Still one process per message: what a message leaves behind ends with it. This process sees
      no message, and holds no connection and no key.
    * Forked only while this process has one thread: no lock is ever held in a child for ever.
    * A child dies with its caller, and with this process (``PR_SET_PDEATHSIG``).
    * Only processes of the hospital's own user are answered (socket 0600 in a folder of 0700, and
      the kernel's word for who calls).
"""

from __future__ import annotations

import ctypes
import gc
import json
import logging
import os
import selectors
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medunlearn_client.service.app_caller import LENGTH, MAX_REQUEST, TAKEN
from medunlearn_client.service.config import HospitalPaths
from medunlearn_common.errors import MedunlearnError, Misconfigured

_LOG = logging.getLogger("medunlearn.starter")
_PR_SET_PDEATHSIG = 1
_PATIENCE_S = 5.0
_BACKLOG = 16
_SIGNALLED = 128

Answer = Callable[[Sequence[str]], None]


@dataclass(frozen=True, kw_only=True)
class _Child:
    """One forked process, its handle, and who waits for it."""

    pid: int
    handle: int
    caller: socket.socket


class Starter:
    """Forks a process per request; used from one thread, the only one."""

    def __init__(self, listener: socket.socket, answer: Answer) -> None:
        self._listener = listener
        self._answer = answer
        self._selector = selectors.DefaultSelector()
        self._libc = ctypes.CDLL(None)
        self._pid = os.getpid()

    def serve(self, stopped: Callable[[], bool]) -> None:
        """Until ``stopped`` says so; children die with this process."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        while not stopped():
            for key, _ in self._selector.select(timeout=1.0):
                # What an earlier one of the same look ended is no news any more.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()

    def _accept(self) -> None:
        caller, _ = self._listener.accept()
        try:
            arguments = _request(caller)
            require_one_thread()
            caller.sendall(TAKEN)  # fails where the caller gave up and does it itself
        except (OSError, ValueError, RecursionError, MedunlearnError) as error:
            _LOG.error("a caller is refused: %s", error)
            caller.close()  # it starts the process itself
            return
        self._start(caller, arguments)

    def _start(self, caller: socket.socket, arguments: list[str]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, or too many processes: the next one may fit
            _LOG.error("no process for a message: %s", error)
            caller.close()
            return
        if pid == 0:
            self._become(caller, arguments)
        child = _Child(pid=pid, handle=os.pidfd_open(pid), caller=caller)
        self._selector.register(child.handle, selectors.EVENT_READ, lambda: self._ended(child))
        self._selector.register(caller, selectors.EVENT_READ, lambda: self._abandoned(child))

    def _become(self, caller: socket.socket, arguments: list[str]) -> None:
        """The child's whole life."""
        status = 1
        try:
            self._libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            if os.getppid() != self._pid:
                return
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._listener.close()
            self._selector.close()
            caller.close()
            status = _status_of(self._answer, arguments)
        finally:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _ended(self, child: _Child) -> None:
        _, waited = os.waitpid(child.pid, 0)
        code = os.waitstatus_to_exitcode(waited)
        with suppress(OSError):
            child.caller.sendall(bytes([code if code >= 0 else _SIGNALLED - code]))
        self._selector.unregister(child.handle)
        self._forget(child.caller)
        os.close(child.handle)

    def _abandoned(self, child: _Child) -> None:
        """The caller is gone, with the executor as a rule: nobody else would end its child."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.handle, signal.SIGKILL)
        self._forget(child.caller)

    def _forget(self, caller: socket.socket) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(caller)
        caller.close()


def require_one_thread() -> None:
    """Raises Misconfigured STARTER_THREADS: a library started a thread when it was imported."""
    if len(os.listdir("/proc/self/task")) > 1:
        raise Misconfigured("STARTER_THREADS", "a library runs threads in the starter",
                            "messages are answered, slower; report this defect")


def _request(caller: socket.socket) -> list[str]:
    """The arguments that a caller of this user sends; raises ValueError for anything else."""
    _, uid, _ = struct.unpack("3i", caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid != os.getuid():
        raise ValueError("another user calls")
    caller.settimeout(_PATIENCE_S)
    length = LENGTH.unpack(_exactly(caller, LENGTH.size))[0]
    if length > MAX_REQUEST:
        raise ValueError("a request is too long")
    found = json.loads(_exactly(caller, length))
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise ValueError("a request is no list of arguments")
    caller.settimeout(None)
    return found


def _exactly(caller: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = caller.recv(size - len(data))
        if not more:
            raise ValueError("a request breaks off")
        data += more
    return data


def _status_of(answer: Answer, arguments: list[str]) -> int:
    try:
        answer(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()  # into a log that stays here
        return 1
    return 0


def listening(path: Path) -> socket.socket:
    """A fresh socket that only this user can open.

    Raises:
        Misconfigured: STARTER_SOCKET.
    """
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.lstat().st_uid != os.getuid():
        raise Misconfigured("STARTER_SOCKET", "the socket's folder is another user's",
                            "stop the service, remove the folder, and look for who made it")
    folder.chmod(0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def main(folder: Path) -> int:
    """The process; ends with SIGTERM."""
    # Not logs.start: that reads what this process prints in a thread, which no fork survives.
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: stopping.append(got))
    try:
        # Late: these are what takes a second.
        import medunlearn_client.service.worker_client  # noqa: F401
        from medunlearn_client.service.app_process import answer, prepared

        prepared(folder)
        gc.collect()
        gc.freeze()  # pages that no child's collector touches stay shared
        Starter(listening(HospitalPaths(folder=folder).starter), answer).serve(
            lambda: bool(stopping))
    except MedunlearnError as error:
        _LOG.error("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
