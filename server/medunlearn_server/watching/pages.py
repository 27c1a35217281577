"""The dashboard's two pages as text; pure functions of a view."""

from __future__ import annotations

from typing import Any

from medunlearn_common.pages.formatting import plain
from medunlearn_common.pages.rendering import asset, environment
from medunlearn_server.watching import words
from medunlearn_server.watching.drawings import curves, matrix
from medunlearn_server.watching.views import PHASES, FederationView, RunView

_PACKAGE = "medunlearn_server.watching"
_LABEL_LENGTH, _MOST_RECORDS = 13, 40


def render_runs(view: FederationView) -> str:
    """The list of runs, and what must hold."""
    return _render("runs.html.j2", view=view)


def render_run(view: FederationView, run: RunView) -> str:
    """One run."""
    return _render(
        "run.html.j2", view=view, run=run, charts=curves(run),
        matrix=matrix(run, lambda site: plain(site, _LABEL_LENGTH)),
        phase=PHASES.index(run.phase), records=run.log.records[: -_MOST_RECORDS - 1 : -1],
    )


def style() -> str:
    """Style of both pages: the shared one, and what only a dashboard has."""
    return asset("style.css") + asset("watch.css", _PACKAGE)


def script() -> str:
    """The script that keeps a page up to date."""
    return asset("watch.js", _PACKAGE)


def _render(template: str, **context: Any) -> str:
    return environment(_PACKAGE).get_template(template).render(
        words=words, phases=PHASES, **context
    )
