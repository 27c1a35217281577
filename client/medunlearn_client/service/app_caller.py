"""What Flower's executor starts as ``flwr-clientapp``: asks ``service.app_starter`` for a process.

``python -I -S app_caller.py SOCKET FOLDER ARGUMENTS…``, without the installed packages: it lives
for every message, and a second of imports is what is being avoided. Exits as the process did that
answered. Where no starter takes the request, it becomes ``service.app_process`` itself.
"""

import json
import os
import socket
import struct
import sys

LENGTH = struct.Struct("!I")
MAX_REQUEST = 1 << 16
TAKEN = b"+"
_PATIENCE_S = 5.0
_LOST = 1


def asked(path: str, arguments: list[str]) -> int | None:
    """Exit status of the process that was started for ``arguments``; None if none was.

    A starter that dies once it has taken the request may have begun: that is not repeated.
    """
    request = json.dumps(arguments).encode("ascii")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as starter:
        starter.settimeout(_PATIENCE_S)
        try:
            starter.connect(path)
            starter.sendall(LENGTH.pack(len(request)) + request)
            if starter.recv(1) != TAKEN:
                return None
        except OSError:
            return None
        starter.settimeout(None)
        try:
            status = starter.recv(1)
        except OSError:
            return _LOST
        return status[0] if status else _LOST


def main(path: str, folder: str, arguments: list[str]) -> None:
    """Ask, or do it oneself."""
    status = asked(path, arguments)
    if status is None:
        module = "medunlearn_client.service.app_process"
        os.execv(sys.executable, [sys.executable, "-P", "-m", module, folder, *arguments])
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
