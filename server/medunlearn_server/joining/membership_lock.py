"""One change of the membership at a time.

Without it two commands could read one roster, and each sign its own next version: both say that
it is done, and what one of them did is lost.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from medunlearn_common.errors import Transient
from medunlearn_common.files import private_folder

LOCK_FILE: Final = "membership.lock"


@contextmanager
def one_at_a_time(state: Path) -> Iterator[None]:
    """Hold the membership against other commands, which wait: nobody holds it for long.

    Raises:
        Transient: WRITE_FAILED.
    """
    path = private_folder(state) / LOCK_FILE
    try:
        lock = path.open("ab")
    except OSError as error:
        raise Transient("WRITE_FAILED", f"cannot open {path.name}: {error.strerror or error}",
                        "free disk space or mend permissions; nothing was changed") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
