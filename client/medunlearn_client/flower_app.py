"""The Flower ClientApp: between Flower and this site's hospital.

Unpacks a Flower message, hands it to this site's hospital and packs the answer. Heavy
libraries are imported with the first message, and opened hospitals are kept for the life of
the process: a simulation's actors answer many messages of many sites.

Settings come from the node's and the run's configuration, or, in a simulation, from
:func:`build_app`: ``site-folder`` (one hospital's node), or ``sites-dir`` with one folder
``site-<partition-id>`` per simulated hospital; ``device``, ``microbatch-tokens``, ``threads``.
In a deployed node ``worker`` names the Unix socket of the hospital's worker (``unix:///path``).
Then this process, which Flower starts anew for every message, opens no hospital and imports no
torch: it hands the sealed request on and the sealed answer back.

Guarantees:
    Flower sends the text of an exception to the server verbatim, and that text may quote a
    patient. So nothing raised in here leaves: the answer is a code, the text goes to the
    site's own log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flwr.app import Context
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp

from medunlearn_client.bundle_check import require_installed_code
from medunlearn_common.envelope import HELLO, SEALED
from medunlearn_common.errors import MedunlearnError, Misconfigured
from medunlearn_common.flower_records import from_records, to_records
from medunlearn_common.messages import ERROR, Message, Scalar
from medunlearn_common.plan import RuntimeOptions

if TYPE_CHECKING:
    from medunlearn_client.sealed_hospital import SealedHospital

_LOG = logging.getLogger("medunlearn.flower")
INTERNAL_ERROR = "INTERNAL"
_WORKER, _WORKER_TIMEOUT = "worker", "worker-timeout-s"
_DEFAULT_WORKER_TIMEOUT_S = 3600.0

Handler = Callable[[FlowerMessage, Context], FlowerMessage]
Mod = Callable[[FlowerMessage, Context, Handler], FlowerMessage]


class Answering(Protocol):
    """What answers: :class:`medunlearn_client.sealed_hospital.SealedHospital`, or a worker."""

    def handle(self, message: Message) -> Message:
        """Answer one request; never raises."""
        ...


Opener = Callable[[Path, RuntimeOptions], Answering]

_HOSPITALS: dict[tuple[Path, RuntimeOptions], SealedHospital] = {}


def respond(
    message: FlowerMessage, context: Context, settings: Mapping[str, Scalar],
    opener: Opener | None = None,
) -> FlowerMessage:
    """Answer one Flower message; never raises."""
    try:
        # Nothing of the coordinator's run_config is read: it could name another folder.
        given: dict[str, Scalar] = {**settings}
        given.update({k: v for k, v in context.node_config.items() if v != ""})
        answering = _hospital(given, opener) if _WORKER not in given else _Forwarding(given)
        answer = answering.handle(from_records(message.content))
    except MedunlearnError as error:
        _LOG.error("%s", error)
        answer = Message(kind=ERROR, fields={"code": error.code})
    except Exception:
        _LOG.exception("a request could not be handled")
        answer = Message(kind=ERROR, fields={"code": INTERNAL_ERROR})
    return FlowerMessage(to_records(answer), reply_to=message)


class _Forwarding:
    """Stands where the hospital is, for one message, and asks the worker."""

    def __init__(self, settings: Mapping[str, Scalar]) -> None:
        # Late: a simulation needs no gRPC.
        from medunlearn_client.service.worker_client import WorkerClient, socket_of

        require_installed_code()
        self._client = WorkerClient(
            socket_of(str(settings[_WORKER])),
            timeout_s=float(settings.get(_WORKER_TIMEOUT, _DEFAULT_WORKER_TIMEOUT_S)),
        )

    def handle(self, message: Message) -> Message:
        """The worker's answer; raises Transient SITE_WORKER_ codes."""
        return self._client.ask(message)


def _hospital(settings: Mapping[str, Scalar], opener: Opener | None) -> Answering:
    """The opened hospital of this node, from the process-wide cache."""
    folder = _site_folder(settings)
    runtime = RuntimeOptions(
        runner="flower",
        device=str(settings.get("device", "auto")),
        microbatch_tokens=int(settings.get("microbatch-tokens", 8192)),
        threads=int(settings.get("threads", 1)),
    )
    if (folder, runtime) not in _HOSPITALS:
        require_installed_code()
        _HOSPITALS[folder, runtime] = _sealed((opener or _open_hospital), folder, runtime)
    return _HOSPITALS[folder, runtime]


def _sealed(opener: Opener, folder: Path, runtime: RuntimeOptions) -> SealedHospital:
    """Behind its envelopes, always: there is no setting for another way."""
    from medunlearn_client.sealed_hospital import seal_hospital

    return seal_hospital(folder, opener(folder, runtime))


def _open_hospital(folder: Path, runtime: RuntimeOptions) -> Answering:
    # Late: this brings torch and transformers, several seconds.
    from medunlearn_client.hospital import open_hospital

    return open_hospital(folder, runtime)


def _site_folder(settings: Mapping[str, Scalar]) -> Path:
    if "site-folder" in settings:
        return Path(str(settings["site-folder"])).resolve()
    if "sites-dir" in settings and "partition-id" in settings:
        folder = Path(str(settings["sites-dir"])) / f"site-{settings['partition-id']}"
        return folder.resolve()
    raise Misconfigured(
        "SITE_FOLDER", "this node was not told where its site folder is",
        "start the node with --node-config 'site-folder=\"/path/of/the/site\"'",
    )


def build_app(
    settings: Mapping[str, Scalar], *, mods: Sequence[Mod] = (), opener: Opener | None = None
) -> ClientApp:
    """A ClientApp over ``settings``; run and node configuration are laid over them.

    Args:
        settings: Defaults of the keys above.
        mods: Flower's interceptors.
        opener: Opens a site folder; None stands for
            :func:`medunlearn_client.hospital.open_hospital`. Never taken from a
            configuration, which may come from the coordinator.
    """
    def handle(message: FlowerMessage, context: Context) -> FlowerMessage:
        return respond(message, context, settings, opener)

    return _answering_with(handle, mods)


def refusing_app(code: str) -> ClientApp:
    """A ClientApp that answers everything with one code."""
    def handle(message: FlowerMessage, context: Context) -> FlowerMessage:
        return FlowerMessage(
            to_records(Message(kind=ERROR, fields={"code": code})), reply_to=message)

    return _answering_with(handle, ())


def _answering_with(handle: Handler, mods: Sequence[Mod]) -> ClientApp:
    client_app = ClientApp(mods=list(mods))
    client_app.query(HELLO)(handle)
    client_app.train(SEALED)(handle)  # whatever is inside: Flower's types say nothing of it
    return client_app


app = build_app({})
