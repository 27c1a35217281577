"""``python -m medunlearn_client.service.node_process FILE ARGUMENTS…``: Flower's SuperNode.

Flower's own command outlives its work: whatever ends the node's loop (a certificate that has
expired, a handshake that broke off, a status that it does not know) is logged, and a thread that
serves the executor keeps the process there for ever, connected to nobody. Here the process ends
with the loop, and the service starts it anew.

How its calls end is written to FILE (:class:`NodeLink`): a node that is not let in only ends, and
says so nowhere else.

What it waits for is bounded too: see :mod:`~medunlearn_client.service.node_state`.

Guarantees:
    * The process lives no longer than the node's loop.
    * Arguments are those of ``flower-supernode``, and it alone decides what they mean.
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from medunlearn_client.service.node_link import NOT_ADMITTED, UNREACHABLE, NodeLink
from medunlearn_common.errors import Transient

if TYPE_CHECKING:
    import httpx
    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

PROGRAM = "flower-supernode"
LOOP_ENDED = 1
_ACTIVATE = "/activate-node"
_OK, _UNAUTHORIZED, _SERVER_ERROR = 200, 401, 500
_WRITE_EVERY_S = 5.0


class NotedCalls:
    """Stands around each call of the coordinator, as Flower's interceptors do, and notes its end.

    One that cannot be noted is made all the same.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._link = NodeLink()
        self._written = 0.0

    def intercept(
        self, context: ProtobufRequestContext, call_next: ProtobufCall
    ) -> httpx.Response:
        """One call; whatever becomes of it is passed on."""
        try:
            answer = call_next(context)
        except Exception:
            self._note(UNREACHABLE)
            raise
        self._note(_code_of(answer.status_code, context.request.url.path))
        return answer

    def _note(self, code: str) -> None:
        now = self._clock()
        before, self._link = self._link, self._link.then(code, now=now)
        if self._link.since != before.since or now - self._written >= _WRITE_EVERY_S:
            with suppress(Transient):
                self._link.write(self._path)
                self._written = now


def _code_of(status: int, path: str) -> str:
    """A call may be refused for what it asks (of a run that has ended): then it was let in."""
    if status >= _SERVER_ERROR:
        return UNREACHABLE
    refused = status == _UNAUTHORIZED or (status != _OK and path.endswith(_ACTIVATE))
    return NOT_ADMITTED if refused else ""


def note_calls(path: Path) -> None:
    """Have every call of Flower's node noted."""
    from flwr.supernode import fleet_http_connection as flower
    from flwr.supernode.fleet_http_client import FleetHttpClient

    class NotedClient(FleetHttpClient):
        def __init__(self, *given: Any, interceptors: Sequence[Any] = (), **named: Any) -> None:
            super().__init__(*given, interceptors=(*interceptors, NotedCalls(path)), **named)

    vars(flower)["FleetHttpClient"] = NotedClient  # where the pinned flwr looks


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


def main(link: Path, arguments: Sequence[str]) -> NoReturn:
    """The process."""
    from flwr.supernode.cli import flower_supernode

    from medunlearn_client.service import node_state

    note_calls(link)
    node_state.install()
    sys.argv = [PROGRAM, *arguments]
    end_with(flower_supernode)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
