"""A web application for the people at this very machine: read-only, on loopback, no cookies.

What a browser makes dangerous about that, and what is done here: a page of somebody else whose
name was made to point at 127.0.0.1 (DNS rebinding) has its own name in ``Host`` and is refused;
what only reads cannot be misused by a forged request; nothing may frame, cache or embed the
answers, and pages load nothing but what this server serves.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from types import MappingProxyType

import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medunlearn_common.errors import Misconfigured
from medunlearn_common.logs import EventLog

_HOST = re.compile(rb"(?:127\.0\.0\.1|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_METHODS = ("GET", "HEAD")
_MAX_PATH = 512
_MAX_HEAD_BYTES = 16 << 10
_AT_ONCE = 64
_IDLE_S = 10

HEADERS: Mapping[str, str] = MappingProxyType({
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
})


class LoopbackOnly:
    """Refuses what no page of this server asks for, before the application sees it.

    Guarantees:
        * A request that names another host than this machine's loopback gets 421 and nothing
          else, whatever its path.
        * Only GET and HEAD reach the application.
        * Every answer, errors included, carries :data:`HEADERS`, and no answer repeats any part
          of the request or the text of an exception.
    """

    def __init__(self, app: ASGIApp, *, log: EventLog | None = None) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            return  # neither websockets nor a lifespan are served
        answered = False

        async def guarded(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                kept = [(n, v) for n, v in message["headers"] if n.decode("latin-1") not in HEADERS]
                message = {**message, "headers": kept + _own_headers()}
            await send(message)

        refusal = _refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        try:
            await self._app(scope, receive, guarded)
        except Exception as error:
            if self._log is not None:
                self._log.error("failed", error)
            if not answered:
                await _told("INTERNAL_ERROR", 500)(scope, receive, guarded)


def _refusal(scope: Scope) -> JSONResponse | None:
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) != 1 or _HOST.fullmatch(hosts[0]) is None:
        return _told("HOST_REFUSED", 421)
    if scope["method"] not in _METHODS:
        return _told("METHOD_REFUSED", 405, {"allow": ", ".join(_METHODS)})
    if len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"") > _MAX_PATH:
        return _told("PATH_TOO_LONG", 414)
    return None


def _told(code: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"code": code}, status_code=status, headers=headers)


def _own_headers() -> list[tuple[bytes, bytes]]:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in HEADERS.items()]


def split_loopback(address: str) -> tuple[str, int]:
    """Host and port of ``host:port``, on this machine only.

    Raises:
        Misconfigured: WATCH_ADDRESS if it is none, or not on loopback.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
        number = int(port)
    except ValueError:
        local, number = False, 0
    if not local or not 0 <= number <= 65_535:
        raise Misconfigured(
            "WATCH_ADDRESS", "health, metrics and pages are served on this machine's loopback only",
            "use 127.0.0.1:PORT, and an SSH tunnel or a reverse proxy with its own login from "
            "elsewhere",
        )
    return host, number


def server_of(app: ASGIApp, address: str, *, log: EventLog | None = None) -> uvicorn.Server:
    """A server to ``run()``: the guarded application, no access log, small limits.

    Raises:
        Misconfigured: WATCH_ADDRESS.
    """
    host, port = split_loopback(address)
    return uvicorn.Server(uvicorn.Config(
        LoopbackOnly(app, log=log), host=host, port=port, http="h11", ws="none", lifespan="off",
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        limit_concurrency=_AT_ONCE, timeout_keep_alive=_IDLE_S,
        h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
    ))


def run_app(app: ASGIApp, address: str, *, log: EventLog | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C; ``log`` is told the port.

    Raises:
        Misconfigured: WATCH_ADDRESS.
    """
    server = server_of(app, address, log=log)
    if log is not None:
        log.info("serving", port=split_loopback(address)[1])
    server.run()
