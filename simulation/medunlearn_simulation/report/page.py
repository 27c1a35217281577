"""Puts the page together: one file that loads nothing from anywhere.

A content security policy inside the page allows the page's own style and script by their
digests and forbids everything else, so that the report can be opened, mailed and archived
without trust in its contents. All text passes jinja2's escaping.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from medunlearn_common.files import write_atomically
from medunlearn_simulation.report import formatting, sections
from medunlearn_simulation.report.statement import privacy_statement, relearning_words
from medunlearn_simulation.report.verdicts import headline_sentence, headline_verdicts
from medunlearn_simulation.result_schema import RunResult

REPORT_FILE = "report.html"
FILTERS = {
    "percent": formatting.percent,
    "fine_percent": formatting.fine_percent,
    "points": formatting.points,
    "decimal": formatting.decimal,
    "scientific": formatting.scientific,
    "count": formatting.count,
    "bytes": formatting.byte_size,
    "duration": formatting.duration,
}


def write_report(path: Path, result: RunResult, *, attestation: str | None = None) -> None:
    """Writes `report.html` atomically.

    Args:
        path: The file.
        result: What it shows.
        attestation: SHA-256 (hex) of the run's attestation, which the result cannot name itself.

    Raises:
        Transient: `WRITE_FAILED`.
    """
    page = render_report(result, attestation=attestation)
    write_atomically(path, page.encode(), private=False)


def render_report(result: RunResult, *, attestation: str | None = None) -> str:
    """The page as text; depends on the result and the attestation's digest alone."""
    return render_page(
        "report.html.j2",
        result=result,
        attestation=attestation,
        sentence=headline_sentence(result),
        verdicts=headline_verdicts(result),
        statement=privacy_statement(result),
        accuracy_charts=sections.accuracy_bars(result),
        round_charts=sections.round_charts(result),
        site_charts=sections.site_charts(result),
        level_chart=sections.level_bars(result),
        level_line=sections.level_line(result),
        attacks=sections.attack_charts(result.membership),
        relearning_chart=sections.relearning_bars(result),
        relearning_words=relearning_words(result),
        byte_rows=sections.byte_rows(result),
        byte_phase_rows=sections.phase_rows(result.communication.bytes_by_phase, seconds=False),
        second_rows=sections.phase_rows(result.seconds.by_phase, seconds=True),
        site_rows=sections.site_rows(result),
        level_names=sections.LEVEL_NAMES,
    )


def render_page(template: str, **context: Any) -> str:
    """Renders one of the page templates with the shared style and script."""
    style, script = _asset("style.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(template)
        .render(style=style, script=script, policy=policy, **context)
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("medunlearn_simulation.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


@cache
def _asset(name: str) -> str:
    folder = resources.files("medunlearn_simulation.report") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """Digest of an inline element's text, as a content security policy names it."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
