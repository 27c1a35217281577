"""The one port that hospitals reach: TLS in front of the SuperLink, and its node API alone.

Behind one port the SuperLink offers three interfaces: for nodes, for whoever starts runs, and
for executors. Only the first is for others, and of it not the two calls with which a node would
register itself. Everything else is 403 and never reaches the SuperLink.

Guarantees:
    * Only ``POST`` to the ten calls in ``CALLS``, signed just now with a key that lies in
      ``nodes/``, is passed on; headers other than the ones in ``_TO_SUPERLINK`` are not.
    * No answer is a 500: that would end a node's loop while its process lives on. A SuperLink
      that fails, is away or too slow is 502, 503 or 504, which nodes try again.
    * Body sizes, silence, duration and number of exchanges are bounded, the number also for each
      hospital. Nothing is buffered whole but looks for messages and their answers: else the
      slower side sets the pace.

A look for messages that finds none is held open until there is one, or for ``HOLD_S``: nodes
sleep three seconds after an empty answer, which would cost seconds with each exchange. A site
may put nginx or Caddy here instead (docs/decisions/0017); what is lost then stands there.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import httpx
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from medunlearn_common.log_fields import event
from medunlearn_server.answered import AnswerBoard
from medunlearn_server.service.config import LimitsSection
from medunlearn_server.service.node_keys import NodeKeys

_LOG = logging.getLogger("medunlearn.gateway")

PREFIX: Final = "/v1/fleet/"
PULL: Final = f"{PREFIX}pull-messages"
ANSWER: Final = f"{PREFIX}push-messages"
CALLS: Final = frozenset(PREFIX + name for name in (
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages",
    "push-messages", "get-run", "get-fab", "push-object", "pull-object",
    "confirm-message-received",
))
KEY_HEADER: Final = "flwr-public-key"
_SIGNATURE_HEADER: Final = "flwr-signature"
_TIME_HEADER: Final = "flwr-timestamp"
_TO_SUPERLINK: Final = (
    KEY_HEADER, _SIGNATURE_HEADER, _TIME_HEADER, "flwr-package-name",
    "flwr-package-version", "flwr-component-name", "content-type", "accept",
)
_TO_NODE: Final = ("content-type", "flwr-version-incompatibility-message")

HOLD_S: Final = 15.0
"""Longest hold of a look for messages; nodes give up after 30 s."""
_LOOK_AGAIN_S: Final = 2.0
_WAKE_POLL_S: Final = 0.05
_MAX_PULL_BYTES: Final = 1 << 16
_UPSTREAM_CONNECTIONS: Final = 256
_CONNECT_S: Final = 5.0
_STARTING_S: Final = 60.0


class _TooLarge(Exception):
    """A body beyond the limit."""


class _TooSlow(Exception):
    """A body that stopped coming."""


class Gateway:
    """The ASGI application."""

    def __init__(
        self, *, superlink: str, certificate: Path, keys: NodeKeys, limits: LimitsSection,
        wake_file: Path, stopping: Callable[[], bool] = lambda: False,
        seen: Callable[[str], None] = lambda site: None, board: AnswerBoard | None = None,
    ) -> None:
        """Prepare.

        Args:
            superlink: Its address, ``host:port``.
            certificate: Root of its certificate.
            keys: Who may call.
            limits: Of one request.
            wake_file: Touched by whoever put new messages into the SuperLink.
            stopping: Whether held calls should end.
            seen: Told whose call was answered.
            board: Told whose answers are complete.
        """
        self._board = board
        self._seen = seen
        self._keys = keys
        self._limits = limits
        self._under_way: Counter[str] = Counter()
        self._wake_file = wake_file
        self._stopping = stopping
        self._began, self._reached = time.monotonic(), False
        self._client = httpx.AsyncClient(
            base_url=f"https://{superlink}", trust_env=False, follow_redirects=False,
            verify=ssl.create_default_context(cafile=str(certificate)),
            timeout=httpx.Timeout(limits.request_s, connect=_CONNECT_S, pool=_CONNECT_S),
            limits=httpx.Limits(max_connections=_UPSTREAM_CONNECTIONS),
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange; whatever happens, not with a 500."""
        if scope["type"] != "http":
            return
        begun = False

        async def watched(message: Any) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(self._limits.request_s):
                await self._serve(Request(scope, receive), scope, receive, watched)
        except ClientDisconnect:
            return
        except Exception as error:
            status = _status_of(error)
            level = logging.INFO if self._is_starting(error) else logging.WARNING
            _LOG.log(level, "an exchange ended with %d (%s)", status, type(error).__name__,
                     extra=event("exchange_failed", status=status))
            if not begun:
                await Response(status_code=status)(scope, receive, send)
            else:
                raise _Cut from None  # the server closes the connection: no half body passes

    def _is_starting(self, error: Exception) -> bool:
        """Whether the SuperLink, which needs seconds, is not up yet: nodes try again."""
        young = time.monotonic() - self._began < _STARTING_S
        return young and not self._reached and isinstance(error, httpx.ConnectError)

    async def _serve(
        self, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        refused = self._refusal(request)
        if refused is not None:
            _LOG.info("refused a call with %d", refused,
                      extra=event("caller_refused", status=refused))
            # The body is not read, so the connection cannot be used again.
            await Response(status_code=refused, headers={"connection": "close"})(
                scope, receive, send
            )
            return
        self._under_way[_site(request)] += 1
        try:
            if request.url.path == PULL:
                await (await self._held(request))(scope, receive, send)
            else:
                await self._passed_on(request, scope, receive, send)
        finally:
            self._under_way[_site(request)] -= 1

    def _refusal(self, request: Request) -> int | None:
        path = bytes(request.scope.get("raw_path") or b"").decode("latin-1")
        if request.method != "POST" or path not in CALLS or request.scope["query_string"]:
            return 403
        site = request.state.site = self._caller(request)
        if site is None:
            return 401
        length = request.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            return 400
        if int(length) > self._limits.max_request_mib << 20:
            return 413
        if self._under_way[site] >= self._limits.max_per_site:
            return 503
        return None

    def _caller(self, request: Request) -> str | None:
        shown = request.headers
        return self._keys.caller(
            _decoded(shown.get(KEY_HEADER, "")), timestamp=shown.get(_TIME_HEADER, ""),
            signature=_decoded(shown.get(_SIGNATURE_HEADER, "")), now=time.time(),
        )

    # -- passing on ----------------------------------------------------------------------

    async def _passed_on(
        self, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = self._body(request, self._limits.max_request_mib << 20)
        async with self._client.stream(
            "POST", request.url.path, headers=_kept(request.headers, _TO_SUPERLINK), content=body
        ) as answer:
            status = answer.status_code if answer.status_code < 500 else 502
            self._note(request, status)
            if request.url.path == ANSWER and status == 200:
                self._on_board(request, begins=True)
            if status == 502:
                await Response(status_code=502)(scope, receive, send)
                return
            headers = _kept(answer.headers, _TO_NODE)
            if "content-length" in answer.headers and "content-encoding" not in answer.headers:
                headers["content-length"] = answer.headers["content-length"]
            await StreamingResponse(
                self._answered(answer), status_code=status, headers=headers
            )(scope, receive, send)

    async def _body(self, request: Request, max_bytes: int) -> AsyncIterator[bytes]:
        size, chunks = 0, request.stream().__aiter__()
        while True:
            try:
                chunk = await asyncio.wait_for(anext(chunks), self._limits.idle_s)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise _TooSlow from None
            size += len(chunk)
            if size > max_bytes:
                raise _TooLarge
            if chunk:
                yield chunk

    async def _answered(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in answer.aiter_bytes():
            size += len(chunk)
            if size > self._limits.max_response_mib << 20:
                raise _TooLarge
            yield chunk

    # -- looking for messages ------------------------------------------------------------

    async def _held(self, request: Request) -> Response:
        """Ask until there is a message; a node that went away gets none, so that none is lost."""
        self._on_board(request, begins=False)
        body = b"".join([chunk async for chunk in self._body(request, _MAX_PULL_BYTES)])
        headers = _kept(request.headers, _TO_SUPERLINK)
        until = time.monotonic() + HOLD_S
        while True:
            if self._caller(request) is None:  # revoked meanwhile
                return Response(status_code=401)
            seen = self._woken_at()
            answer = await self._client.post(PULL, headers=headers, content=body)
            if answer.status_code >= 500:
                return Response(status_code=502)
            self._note(request, answer.status_code)
            done = answer.status_code != 200 or answer.content or time.monotonic() >= until
            if done or not await self._wait(request, seen, until):
                return Response(
                    answer.content, status_code=answer.status_code,
                    headers=_kept(answer.headers, _TO_NODE),
                )

    async def _wait(self, request: Request, seen: int, until: float) -> bool:
        """Until something may have come; False if there is nobody to wait for."""
        look_again = min(until, time.monotonic() + _LOOK_AGAIN_S)
        while time.monotonic() < look_again and self._woken_at() == seen:
            if self._stopping():
                return False
            await asyncio.sleep(_WAKE_POLL_S)
        if await request.is_disconnected():
            raise ClientDisconnect
        return True

    def _woken_at(self) -> int:
        try:
            return self._wake_file.stat().st_mtime_ns
        except OSError:
            return 0

    def _on_board(self, request: Request, *, begins: bool) -> None:
        """A node brings an answer, part by part, and only then asks for work again."""
        if self._board is not None:
            (self._board.begins if begins else self._board.asks_again)(_site(request))

    def _note(self, request: Request, status: int) -> None:
        """Remember who was let in, by the SuperLink too."""
        self._reached = True
        if status == 200:
            self._seen(_site(request))

    async def close(self) -> None:
        """Give connections back."""
        await self._client.aclose()


class _Cut(Exception):
    """Ends a connection whose answer has begun."""


def _status_of(error: Exception) -> int:
    known: dict[type[Exception], int] = {
        # Not 408: a node tries that no more than a 500, and a bad line is not its fault.
        _TooLarge: 413, _TooSlow: 503, httpx.PoolTimeout: 503, httpx.TimeoutException: 504,
        TimeoutError: 504,
    }
    return next((status for kind, status in known.items() if isinstance(error, kind)), 502)


def _site(request: Request) -> str:
    """Whose call it is, once it was not refused."""
    return str(request.state.site)


def _kept(headers: Any, names: tuple[str, ...]) -> dict[str, str]:
    return {name: headers[name] for name in names if name in headers}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""
