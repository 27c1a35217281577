"""The file that nobody but its owner reads: messages and tracebacks in full."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

from medunlearn_common.errors import Misconfigured, Transient

MAX_PRIVATE_BYTES = 16 << 20
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
# Control characters as text: who reads the file in a terminal is not commanded by it.
_SHOWN = {n: f"\\x{n:02x}" for n in (*range(32), *range(127, 160)) if chr(n) not in "\n\t"}


class PrivateFile:
    """Appended to, 0600, at most two files of ``max_bytes``.

    Guarantees:
        Group and others can neither read nor write what is written here; where they could, it
        refuses to begin. A symbolic link in its place is not followed.

    Raises:
        Misconfigured: LOG_READABLE.
        Transient: LOG_UNWRITABLE.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_PRIVATE_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._taken = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = self._open()
        except OSError as error:
            raise Transient(
                "LOG_UNWRITABLE", f"the log {path.name} cannot be written ({error.strerror})",
                "free disk space or mend the permissions of the folder for logs",
            ) from error
        if os.fstat(self._descriptor).st_mode & _OTHERS:
            os.close(self._descriptor)
            raise Misconfigured(
                "LOG_READABLE", f"others may read {path.name}, which may quote patients' records",
                f"chmod 600 {path.name}, and find out who has read it",
            )

    def write(self, message: str, error: BaseException | None = None) -> str:
        """Append a message and an error with its traceback; never raises.

        Returns:
            The reference under which it stands there: random, so it tells nothing.
        """
        reference = token_hex(6)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with suppress(Exception):  # an exception whose own __str__ raises, a full disk
            trace = "" if error is None else "".join(traceback.format_exception(error))
            data = f"{stamp} ref={reference} {message}\n{trace}"
            with self._lock:
                with suppress(OSError):  # an overlong log is better than none
                    self._roll()
                os.write(self._descriptor, data.translate(_SHOWN).encode(
                    "utf-8", "backslashreplace"))
        return reference

    def take_output(self) -> None:
        """Point stdout and stderr of the process, native code included, at this file."""
        self._taken = True
        os.dup2(self._descriptor, 1)
        os.dup2(self._descriptor, 2)

    def close(self) -> None:
        """Give the file back; what is written later goes nowhere."""
        with self._lock:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1  # the number may soon be another file's

    def _roll(self) -> None:
        ours = os.fstat(self._descriptor)
        if ours.st_size < self._max_bytes:
            return
        # Another process may be replacing it, or have done so, or have got no further.
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            if os.path.samestat(ours, self._path.lstat()):
                os.replace(self._path, self._path.with_name(f"{self._path.stem}.1.log"))
        except FileNotFoundError:
            pass
        finally:  # closing would not: children hold the same open file as their output
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        old, self._descriptor = self._descriptor, self._open()
        os.close(old)
        if self._taken:
            self.take_output()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)
