"""``python -m medunlearn_client.service.node_process ARGUMENTS…``: Flower's SuperNode.

Flower's own command outlives its work: whatever ends the node's loop (a certificate that has
expired, a handshake that broke off, a status that it does not know) is logged, and a thread that
serves the executor keeps the process there for ever, connected to nobody. Here the process ends
with the loop, and the service starts it anew.

Guarantees:
    * The process lives no longer than the node's loop.
    * Arguments are those of ``flower-supernode``, and it alone decides what they mean.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

PROGRAM = "flower-supernode"
LOOP_ENDED = 1


def end_with(loop: Callable[[], object]) -> NoReturn:
    """Run a loop, then end the process with it, whatever threads it has left."""
    status = LOOP_ENDED
    try:
        loop()
    except SystemExit as end:  # a signal, or a coordinator that never let it in
        status = end.code if isinstance(end.code, int) else LOOP_ENDED
    except BaseException:
        traceback.print_exc()  # into a log that stays here
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def main(arguments: Sequence[str]) -> NoReturn:
    """The process."""
    from flwr.supernode.cli import flower_supernode

    sys.argv = [PROGRAM, *arguments]
    end_with(flower_supernode)


if __name__ == "__main__":
    main(sys.argv[1:])
