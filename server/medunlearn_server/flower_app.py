"""The Flower ServerApp: between Flower and the coordinator.

Settings come from the run's configuration (``flwr run --run-config``), or, in a simulation,
from :func:`build_app`:

* ``plan``: path of the plan file;
* ``run-folder``: the run's folder at the coordinator;
* ``run-id``: name of the run at every party;
* ``resume``: go on from the folder's checkpoint;
* ``poll-s``: pause between two looks for answers, in seconds;
* ``trust-folder``: the party's folder with ``trust/`` in it, if that is not the run's own;
* ``mode``: ``unlearn`` or ``publish``.

At a deployed coordinator they come from its own folder (:mod:`medunlearn_server.jobs`), and the
run's configuration only names the run.

Flower carries bytes and nothing else: retries, checkpoints and checks are the coordinator's.
Lost messages are never redelivered by Flower, so each one has a time to live, and whoever has
not answered by the deadline counts as absent.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from functools import partial
from importlib import import_module
from pathlib import Path

import httpx
from flwr.app import Context
from flwr.app import Message as FlowerMessage
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid, ServerApp

from medunlearn_common import logs
from medunlearn_common.envelope import HELLO
from medunlearn_common.errors import MedunlearnError, Misconfigured, Rejected
from medunlearn_common.files import private_folder
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.keeping import PartyMarks
from medunlearn_common.messages import ERROR, Message, Scalar
from medunlearn_server.answered import Answered
from medunlearn_server.checkpoints import RunStore
from medunlearn_server.coordinator import Coordinator
from medunlearn_server.directives import obey, obey_while_waiting
from medunlearn_server.jobs import (
    FOLDER_VARIABLE,
    NOW_FILE,
    TIMES_FILE,
    Ending,
    deployed_settings,
    leading,
)
from medunlearn_server.run_plan import shared_plan
from medunlearn_server.sealed_transport import OFFER_FILE, seal_transport
from medunlearn_server.service.passphrase_desk import take_passphrase
from medunlearn_server.shown_progress import ShownProgress
from medunlearn_server.transport import SITE_GONE, SITE_SILENT, Reply, SiteFailure
from medunlearn_server.waiting import Waiting

_LOG = logging.getLogger("medunlearn")
EVENTS_FILE = "events.jsonl"
FAILURE_FILE = "failure.json"
SITE_MALFORMED = "SITE_MALFORMED"
# Where the gateway tells whose answers are complete, all others are looked for this rarely.
_LOOK_AT_ALL_S = 3.0
# Beyond the deadline, so that an answer is never cut off by its own time to live.
_TTL_MARGIN_S = 60.0
_DEFAULT_POLL_S = 0.05


class FlowerTransport:
    """A :class:`~medunlearn_server.transport.Transport` over a Flower grid.

    Addresses are Flower node ids; they change when a simulation is resumed.
    """

    def __init__(
        self, grid: Grid, *, poll_s: float, waiting: Waiting | None = None,
        answered: Answered | None = None,
    ) -> None:
        self._grid = grid
        self._poll_s = poll_s
        self._waiting = waiting or Waiting()
        self._answered = answered or Answered()

    def sites(self) -> tuple[str, ...]:
        """Connected nodes."""
        found = tuple(str(node) for node in sorted(self._grid.get_node_ids()))
        self._waiting.connected(len(found))
        return found

    def exchange(
        self, requests: Mapping[str, Message], *, deadline_s: float
    ) -> Mapping[str, Reply]:
        """Push all requests, then pull until all are answered or the deadline has passed."""
        self._waiting.asking()
        outgoing = [
            FlowerMessage(
                to_records(request), dst_node_id=int(address),
                message_type=_message_type(request), ttl=deadline_s + _TTL_MARGIN_S,
            )
            for address, request in requests.items()
        ]
        waiting = self._push(outgoing, tuple(requests))
        names = self._answered.names()
        self._waiting.asked([names.get(address, address) for address in waiting.values()])
        replies: dict[str, Reply] = {
            address: SiteFailure(code=SITE_GONE) for address in requests
            if address not in waiting.values()
        }
        deadline = time.monotonic() + deadline_s
        self._answered.asked()
        while waiting:
            over = time.monotonic() >= deadline
            looked_for = self._worth_a_look(waiting, all_of_them=over)
            for message, reply in self._found(looked_for):
                replies[waiting.pop(message)] = reply
            self._waiting.missing([names.get(a, a) for a in waiting.values()])
            if not waiting or over:
                break
            time.sleep(self._poll_s)
        self._waiting.exchanged()
        replies.update({address: SiteFailure(code=SITE_SILENT) for address in waiting.values()})
        return replies

    def _worth_a_look(self, waiting: Mapping[str, str], *, all_of_them: bool) -> list[str]:
        """Messages whose answers may be there.

        An answer that is looked for while it is still arriving costs a second: Flower's grid
        finds that a part is missing and sleeps.
        """
        complete = None if all_of_them else self._answered.addresses(within_s=_LOOK_AT_ALL_S)
        if complete is None:
            return list(waiting)
        return [message for message, address in waiting.items() if address in complete]

    def _found(self, looked_for: Iterable[str]) -> Iterator[tuple[str, Reply]]:
        """Answers that are there, each looked for by itself.

        An answer is handed out once, and one whose parts do not fit raises in Flower's grid: in
        one look for several, its hospital would take the others' answers along.

        Raises:
            httpx.HTTPError: The SuperLink is away.
        """
        for message in looked_for:
            try:
                # Flower's own errors come from node 1, so only this field tells whose it is.
                found = [_to_reply(answer) for answer in self._grid.pull_messages([message])
                         if answer.metadata.reply_to_message_id == message]
            except (httpx.HTTPError, MedunlearnError, MemoryError):
                raise
            except Exception:  # what Flower raises depends on what was sent
                _LOG.exception("an answer cannot be put together")
                found = [SiteFailure(code=SITE_MALFORMED)]
            if found:
                yield message, found[0]

    def _push(
        self, outgoing: list[FlowerMessage], addresses: tuple[str, ...]
    ) -> dict[str, str]:
        """Send one by one, as a grid drops the ids of messages it could not place.

        Returns:
            Message id to address.
        """
        waiting: dict[str, str] = {}
        for message, address in zip(outgoing, addresses, strict=True):
            for message_id in self._grid.push_messages([message]):
                if message_id:
                    waiting[str(message_id)] = address
        return waiting


def _message_type(request: Message) -> str:
    category = "query" if request.kind == HELLO else "train"
    return f"{category}.{request.kind}"


def _to_reply(answer: FlowerMessage) -> Reply:
    if answer.has_error():
        if answer.error.code == ErrorCode.NODE_UNAVAILABLE:
            return SiteFailure(code=SITE_GONE)  # its node was connected, and is no longer
        # The reason may hold text from a site's exception: only the number is kept.
        return SiteFailure(code=f"SITE_FLOWER_{int(answer.error.code)}")
    try:
        message = from_records(answer.content)
    except Rejected:
        return SiteFailure(code=SITE_MALFORMED)
    if message.kind == ERROR and message.fields.get("code") == SITE_GONE:
        return SiteFailure(code=SITE_GONE)  # a simulated absence
    return message


def build_app(settings: Mapping[str, Scalar]) -> ServerApp:
    """A ServerApp whose run configuration is laid over ``settings``."""
    server_app = ServerApp()

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder:
            # Flower throws away what the processes of its executor print.
            logs.start(Path(folder) / "state" / "logs", component="serverapp", to_stdout=False)
            take_passphrase(Path(folder) / "state")
            found = deployed_settings(Path(folder), context.run_config)
            _lead_deployed(grid, {**settings, **found})
            return
        given: dict[str, Scalar] = {**settings}
        given.update({name: value for name, value in context.run_config.items() if value != ""})
        lead(grid, given)

    return server_app


def lead(grid: Grid, settings: Mapping[str, Scalar], *, sleep: Callable[[float], None] = time.sleep
         ) -> None:
    """Run the coordinator over ``grid``; a failure is also left in ``failure.json``.

    Raises:
        MedunlearnError: As :meth:`Coordinator.run`, so that the Flower run counts as failed.
    """
    folder = Path(_text(settings, "run-folder"))
    try:
        private_folder(folder)
        (folder / FAILURE_FILE).unlink(missing_ok=True)
        _carry(grid, settings, folder, sleep=sleep)
    except MedunlearnError as error:
        failure = {"family": type(error).__name__, "code": error.code,
                   "message": error.message, "hint": error.hint}
        with suppress(MedunlearnError):  # a disk that is full is not why it failed
            RunStore(folder).write_text(FAILURE_FILE, json.dumps(failure) + "\n")
        raise


def _lead_deployed(grid: Grid, settings: Mapping[str, Scalar]) -> None:
    """As :func:`lead`, as the only process of this run, and with a word for the supervisor."""
    folder, attempt = Path(_text(settings, "run-folder")), int(settings["attempt"])
    with leading(folder, attempt=attempt):
        try:
            lead(grid, settings)
        except MedunlearnError as error:
            _LOG.error("start %d of %s: %s", attempt, folder.name, error)
            Ending(attempt=attempt, family=type(error).__name__, code=error.code).write(folder)
            raise
        except BaseException:
            _LOG.exception("start %d of %s ended without a code", attempt, folder.name)
            raise
        Ending(attempt=attempt).write(folder)


def _carry(
    grid: Grid, settings: Mapping[str, Scalar], folder: Path, *, sleep: Callable[[float], None]
) -> None:
    plan = shared_plan(Path(_text(settings, "plan")), folder)
    run_id = _text(settings, "run-id")
    party = Path(str(settings["trust-folder"])) if settings.get("trust-folder") else None
    PartyMarks(party or folder).require_run(run_id)
    wake, gateway = settings.get("wake-file"), settings.get("gateway-folder")
    waiting = Waiting(
        shown_in=folder / NOW_FILE, times_in=folder / TIMES_FILE,
        halt=partial(obey_while_waiting, folder), wake=Path(str(wake)) if wake else None,
    )
    answered = Answered(Path(str(gateway)) if gateway else None)
    flower = FlowerTransport(
        grid, poll_s=float(settings.get("poll-s", _DEFAULT_POLL_S)), waiting=waiting,
        answered=answered,
    )
    publishes = settings.get("mode") == "publish"
    with closing(seal_transport(
        flower, party or folder, plan=plan, run_id=run_id, offering=not publishes,
        offer_file=folder / OFFER_FILE if party else None,
        model_digest=str(settings.get("model-digest", "")),
        tokenizer_digest=str(settings.get("tokenizer-digest", "")), names=answered.names,
    )) as transport:
        if publishes:
            publishing = import_module("medunlearn_server.publishing.session")
            publishing.publish_over(transport, folder, run_id)
            return
        Coordinator(
            plan=plan, store=RunStore(folder), run_id=run_id,
            transport=transport, verifier=transport.verifier,
            observer=ShownProgress(folder / EVENTS_FILE, waiting), sleep=sleep,
            halt=partial(obey, folder), party=party,
        ).run(resume=bool(settings.get("resume", False)))


def _text(settings: Mapping[str, Scalar], name: str) -> str:
    value = settings.get(name)
    if not isinstance(value, str) or not value:
        raise Misconfigured(
            "RUN_CONFIG", f"the run configuration lacks {name}",
            "pass it with flwr run --run-config, or set it in the app's pyproject.toml",
        )
    return value


app = build_app({})
