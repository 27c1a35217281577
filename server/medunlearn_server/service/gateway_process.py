"""The gateway's own process: ``python -m medunlearn_server.service.gateway_process DIR``."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from medunlearn_common.errors import Misconfigured
from medunlearn_common.files import replace_unsynced
from medunlearn_common.log_fields import event
from medunlearn_common.logs import EventLog
from medunlearn_common.service_log import exit_status
from medunlearn_common.service_log import run as run_logged
from medunlearn_server.answered import ANSWERED_FILE, AnswerBoard
from medunlearn_server.service.config import CoordinatorFolder, open_folder, split_address
from medunlearn_server.service.gateway import HOLD_S, Gateway
from medunlearn_server.service.node_keys import NodeKeys

_LOG = logging.getLogger("medunlearn.gateway")

WAKE_FILE: Final = "pushed"
SEEN_FILE: Final = "seen.json"
LOOPBACK_CERTIFICATE: Final = "loopback.pem"
_HEADER_S: Final = 10.0
_MAX_HEADER_BYTES: Final = 16_384
_LOOK_AT_CERTIFICATE_S: Final = 5.0
_GRACE_S: Final = 3
_SHOW_SEEN_EVERY_S: Final = 2.0
_BACKLOG: Final = 512


class PatientProtocol(H11Protocol):
    """Closes a connection on which a request's header has begun and does not end in time.

    The first header is due from the start, a later one from its first byte: between two requests
    uvicorn's own keep-alive timer runs.
    """

    _header_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_header()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_served():
            self._header_is_there()
        elif self._header_due is None and not self.transport.is_closing() and (
                self.timeout_keep_alive_task is None):
            self._await_header()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._header_is_there()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._header_is_there()

    def _is_served(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await_header(self) -> None:
        self._header_due = self.loop.call_later(_HEADER_S, self.transport.abort)

    def _header_is_there(self) -> None:
        if self._header_due is not None:
            self._header_due.cancel()
            self._header_due = None


class Seen:
    """When each site's node was answered last, for the operator; not flushed to disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times: dict[str, float] = {}
        self._written = 0.0

    def note(self, site: str) -> None:
        """Just now."""
        now = time.time()
        self._times[site] = now
        if now - self._written >= _SHOW_SEEN_EVERY_S:
            self._written = now
            with suppress(OSError):
                replace_unsynced(self._path, json.dumps(self._times))


class _Server(uvicorn.Server):
    """Takes up a renewed certificate without dropping a connection."""

    certificate: tuple[Path, Path]

    async def renew(self, context: ssl.SSLContext) -> None:
        """Watch the files; half-written ones are tried again."""
        seen = _stamps(self.certificate)
        while not self.should_exit:
            await asyncio.sleep(_LOOK_AT_CERTIFICATE_S)
            now = _stamps(self.certificate)
            if now != seen and now:
                with suppress(OSError, ssl.SSLError):
                    context.load_cert_chain(*self.certificate)
                    seen = now
                    _LOG.info("certificate renewed", extra=event("certificate_renewed"))


def _stamps(paths: tuple[Path, Path]) -> tuple[int, ...]:
    try:
        return tuple(path.stat().st_mtime_ns for path in paths)
    except OSError:
        return ()


async def serve(folder: CoordinatorFolder) -> None:
    """Serve until told to stop.

    Raises:
        Misconfigured: TLS_CERTIFICATE.
    """
    config, limits = folder.config, folder.config.limits
    host, port = split_address(config.listen.public)
    certificate, key = folder.tls("certificate"), folder.tls("key")
    server: _Server
    gateway = Gateway(
        superlink=config.listen.superlink, certificate=folder.state / LOOPBACK_CERTIFICATE,
        keys=NodeKeys(folder.nodes), limits=limits, wake_file=folder.state / WAKE_FILE,
        stopping=lambda: server.should_exit, seen=Seen(folder.state / SEEN_FILE).note,
        board=AnswerBoard(folder.state / ANSWERED_FILE),
    )
    settings = uvicorn.Config(
        gateway, host=host, port=port, http=PatientProtocol, ws="none", lifespan="off",
        interface="asgi3", log_config=None, access_log=False, proxy_headers=False,
        server_header=False, limit_concurrency=limits.max_connections, backlog=_BACKLOG,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES, timeout_graceful_shutdown=_GRACE_S,
        timeout_keep_alive=int(HOLD_S * 2), ssl_certfile=str(certificate), ssl_keyfile=str(key),
    )
    try:
        settings.load()
    except (OSError, ssl.SSLError) as error:
        raise Misconfigured(
            "TLS_CERTIFICATE", "the certificate or its key cannot be used",
            "`medunlearn coordinator doctor` says why; rotate-certificate makes new ones",
        ) from error
    context = settings.ssl
    if context is None:
        raise Misconfigured("TLS_CERTIFICATE", "there is no certificate", "run coordinator init")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    server = _Server(settings)
    server.certificate = (certificate, key)
    renewing = asyncio.create_task(server.renew(context))
    try:
        await server.serve()
    finally:
        renewing.cancel()
        await gateway.close()


def main(path: str) -> int:
    """Run the process; returns its exit status.

    Raises:
        Misconfigured: COORDINATOR_CONFIG_ codes; all that comes later is logged.
    """
    folder = open_folder(Path(path))

    def work(log: EventLog) -> None:
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it would tell each request
        log.info("serving", port=split_address(folder.config.listen.public)[1])
        asyncio.run(serve(folder))

    return run_logged(folder.logs, "gateway", work)


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1])))
