"""The coordinator's dashboard, metrics and health, on this machine's loopback.

    GET /             the runs                 GET /metrics    for Prometheus
    GET /runs/ID      one run                  GET /healthz    200 while this process can read
    GET /style.css, /watch.js, /icon.svg       GET /readyz     200 while every check holds

``python -m medunlearn_server.watching.web DIR`` serves a coordinator's folder, or a single run's.
"""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from medunlearn_common import __version__
from medunlearn_common.loopback import run_app
from medunlearn_common.metrics import exposition
from medunlearn_common.pages.rendering import asset
from medunlearn_common.service_log import exit_status
from medunlearn_common.service_log import run as run_logged
from medunlearn_server.service.config import CONFIG_FILE, open_folder
from medunlearn_server.watching.federation import FederationReader
from medunlearn_server.watching.metrics import samples
from medunlearn_server.watching.pages import render_run, render_runs, script, style
from medunlearn_server.watching.run_reader import RunReader
from medunlearn_server.watching.views import FederationView

COMPONENT = "watch"
DEFAULT_ADDRESS = "127.0.0.1:9480"
_FRESH_S = 0.5
View = Callable[[], FederationView]


class SharedView:
    """One view for all who ask within half a second: looking costs what one look costs."""

    def __init__(self, read: View, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[float, FederationView] | None = None

    def __call__(self) -> FederationView:
        """The view now, or as it was at most :data:`_FRESH_S` ago."""
        with self._lock:
            if self._kept is None or self._clock() - self._kept[0] > _FRESH_S:
                self._kept = (self._clock(), self._read())
            return self._kept[1]


def dashboard(view: View) -> Starlette:
    """The application over ``view``; served by :func:`medunlearn_common.loopback.run_app`."""

    def runs(request: Request) -> Response:
        return _page(request, render_runs(view()))

    def run(request: Request) -> Response:
        whole = view()
        found = whole.run(str(request.path_params["run_id"]))
        if found is None:
            return _code("RUN_UNKNOWN", 404)
        return _page(request, render_run(whole, found))

    def metrics(_request: Request) -> Response:
        return Response(exposition(samples(view())), media_type=CONTENT_TYPE_LATEST)

    def healthy(_request: Request) -> Response:
        registry = next((c for c in view().checks if c.name == "registry"), None)
        ok = registry is None or registry.ok
        return _code("" if ok or registry is None else registry.code, 200 if ok else 503)

    def ready(_request: Request) -> Response:
        whole = view()
        checks = {check.name: check.code or "OK" for check in whole.checks}
        return JSONResponse({"ready": whole.ready, "checks": checks},
                            status_code=200 if whole.ready else 503)

    return Starlette(
        routes=[
            Route("/", runs), Route("/runs/{run_id}", run), Route("/metrics", metrics),
            Route("/healthz", healthy), Route("/readyz", ready),
            Route("/style.css", lambda _: Response(style(), media_type="text/css")),
            Route("/watch.js", lambda _: Response(script(), media_type="text/javascript")),
            Route("/icon.svg", lambda _: Response(
                asset("icon.svg", "medunlearn_server.watching"), media_type="image/svg+xml")),
        ],
        exception_handlers={HTTPException: _refused, Exception: _refused},
    )


def _page(request: Request, text: str) -> Response:
    """A page with a tag, so that a browser that has it gets nothing."""
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    return Response(text, media_type="text/html", headers={"etag": tag})


def _code(code: str, status: int) -> Response:
    return JSONResponse({"code": code or "OK"}, status_code=status)


async def _refused(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        return _code("INTERNAL_ERROR", 500)  # raised further, and logged by the guard
    status = error.status_code
    return _code("NOT_FOUND" if status == 404 else "REQUEST_REFUSED", status)


@contextmanager
def view_of(folder: Path) -> Iterator[View]:
    """Reads a coordinator's folder, or a run's where there is no ``coordinator.toml``.

    Raises:
        Misconfigured: A COORDINATOR_CONFIG code.
    """
    if (folder / CONFIG_FILE).exists():
        with closing(FederationReader(open_folder(folder))) as federation:
            yield federation.read
        return
    run = RunReader(folder)
    yield lambda: FederationView(at=time.time(), version=__version__, runs=(run.read(),))


def main(arguments: list[str]) -> int:
    """``DIR [ADDRESS]``; exit status 2 for what the caller can mend.

    A single run's folder takes no log: it is what is looked at.

    Raises:
        Misconfigured: WATCH_ADDRESS, COORDINATOR_CONFIG_ codes; a coordinator's process logs all
            that comes later.
    """
    folder = Path(arguments[0]) if arguments else Path()
    given = arguments[1] if len(arguments) > 1 else ""
    with view_of(folder) as view:
        app = dashboard(SharedView(view))
        if not (folder / CONFIG_FILE).exists():
            run_app(app, given or DEFAULT_ADDRESS)
            return 0
        found = open_folder(folder)
        address = given or found.config.watch.address
        return run_logged(found.logs, COMPONENT, lambda log: run_app(app, address, log=log))


if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:])))
